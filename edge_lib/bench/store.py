"""Training steps with features from the store, against encoding in every step.

Batches, heads, loss and optimizer are the same; only the source of the features differs: a store of
all tokens, one of `REDUCED` tokens, or the encoders. The `limit` is a step on features that are in
memory already; `ours_encoders_alone` encodes inputs that are prepared already.

On a CPU this runs `params/tiny/align.yaml`; on a GPU `params/full/align.yaml` with random weights
(speed does not depend on their values) and scenes instead of PixMo.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import torch

from edge_lib.bench.tools import compare
from edge_lib.config import ExperimentConfig, FeatureSpec, load_config
from edge_lib.config.features import TokensConfig
from edge_lib.data.alignment_batches import AlignmentBatches, Batch
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.experiments.align import AlignmentTask, alignment_batches
from edge_lib.features.encoder import run_encoder
from edge_lib.features.extract import write_features
from edge_lib.features.online import open_features
from edge_lib.features.store import open_store
from edge_lib.models import Aligner
from edge_lib.sources import load_table
from edge_lib.training.optimizer import make_optimizer
from edge_lib.training.progress import peak_memory_mb

SCENES = "data.source=scenes data.scenes.train_size={rows} data.scenes.val_size=4 "
SCENES += "data.scenes.test_size=4 data.scenes.swap_size=2 data.cache_dir={cache}"
REDUCED = TokensConfig(window=2, dtype="int8")
ON_GPU = "vision.weights=random text.weights=random features.on_device=true "
ON_GPU += "train.batch_size=512 train.num_workers=0 data.split=null"


def store(rounds: int = 5) -> dict[str, float]:
    """Seconds and samples per second of a training step: from the store, from a store of reduced
    tokens, online, on features in memory; bytes of an image's tokens in the two stores.
    """
    on_gpu = torch.cuda.is_available()
    path, extra = ("params/full/align.yaml", ON_GPU) if on_gpu else ("params/tiny/align.yaml", "")
    with tempfile.TemporaryDirectory() as cache:
        scenes = SCENES.format(rows=2048 if on_gpu else 1024, cache=cache)
        config = load_config(path, f"{scenes} {extra}")
        specs = feature_specs(config)
        for name in ("ours", "ours_reduced"):
            write_features(config.data, specs[name], ["train"])
        steps = training_steps(config, specs)
        result = compare("seconds", steps, rounds)
        for name in steps:
            samples = config.train.batch_size / result[f"seconds.{name}"]
            result[f"samples_per_second.{name}"] = samples
        result |= token_bytes(load_table(config.data, "train"), specs)
    return result | {"memory.peak_mb": peak_memory_mb()}


def feature_specs(config: ExperimentConfig) -> dict[str, FeatureSpec]:
    """A store, one of reduced tokens, and encoding in every step."""
    spec = config.feature_spec
    changes = {"ours": {}, "ours_reduced": {"tokens": REDUCED}, "ours_online": {"online": True}}
    return {
        name: replace(spec, features=spec.features.model_copy(update=change))
        for name, change in changes.items()
    }


def token_bytes(table: Table, specs: dict[str, FeatureSpec]) -> dict[str, float]:
    """Bytes of an image's tokens in each store, and how many times fewer the reduced one takes."""
    result = {}
    for name in ("ours", "ours_reduced"):
        store = open_store(specs[name], "vision", table)
        parts = (shard.get(key) for shard in store.shards for key in ("tokens", "scales"))
        size = sum(part.nbytes for part in parts if part is not None)
        result[f"token_bytes.{name}"] = size / len(store)
    factor = result["token_bytes.ours"] / result["token_bytes.ours_reduced"]
    return result | {"token_bytes.factor": factor}


def training_steps(
    config: ExperimentConfig, specs: dict[str, FeatureSpec]
) -> dict[str, Callable[[], None]]:
    """A training step for each source of features, all with the same aligner."""
    table = load_table(config.data, "train")
    batches = {
        name: alignment_batches(
            table, open_features(spec, table), config.data, config.train, config.seed
        )
        for name, spec in specs.items()
    }
    in_memory = batches["ours"][0]
    widths = {name: features.widths for name, features in batches["ours"].features.items()}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    aligner = Aligner(config.modalities, config.loss.dims, widths)
    task = AlignmentTask(aligner, config.loss, config.pairs, config.seed).to(device)
    optimizer = make_optimizer(task, config.train)

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, torch.bfloat16, config.train.precision == "bf16"):
            loss = task(batch.to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    numbers = count()

    def step_of(name: str) -> Callable[[], None]:
        return lambda: step(batches[name][next(numbers)])

    encode = _prepared(batches["ours_online"], config.train.batch_size)
    bounds = {
        "limit": lambda: step(in_memory),
        "ours_encoders_alone": lambda: step(replace(in_memory, features=encode())),
    }
    return {name: step_of(name) for name in specs} | bounds


def _prepared(online: AlignmentBatches, batch_size: int) -> Callable[[], dict[str, EncoderOutput]]:
    """A function that encodes the first items of each modality, which are prepared now."""
    sources = online.features
    inputs = {
        name: source.encoder.prepare(source.items.load(np.arange(batch_size)))
        for name, source in sources.items()
    }
    return lambda: {
        name: run_encoder(source.encoder, inputs[name], source.precision, source.window)
        for name, source in sources.items()
    }
