"""Training steps with features from the store, against encoding in every step.

Batches, heads, loss and optimizer are the same; only the source of the features differs. The lower
bound, `heads_alone`, is a step on features that are in memory already.

On a CPU this runs `params/tiny/align.yaml`; on a GPU `params/full/align.yaml` with random weights
(speed does not depend on their values) and scenes instead of PixMo.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import torch

from edge_lib.bench.tools import compare
from edge_lib.config import ExperimentConfig, load_config
from edge_lib.data.alignment_batches import Batch
from edge_lib.experiments.align import AlignmentTask, alignment_batches
from edge_lib.features.extract import write_features
from edge_lib.features.online import open_features
from edge_lib.models import Aligner
from edge_lib.sources import load_table
from edge_lib.training.optimizer import make_optimizer
from edge_lib.training.progress import peak_memory_mb

SCENES = "data.source=scenes data.scenes.train_size={rows} data.scenes.val_size=4 "
SCENES += "data.scenes.test_size=4 data.scenes.swap_size=2 data.cache_dir={cache}"
ON_GPU = "vision.weights=random text.weights=random features.on_device=true "
ON_GPU += "train.batch_size=512 train.num_workers=0"


def store() -> dict[str, float]:
    """Seconds and samples per second of a training step: from the store, online, heads alone."""
    on_gpu = torch.cuda.is_available()
    path, extra = ("params/full/align.yaml", ON_GPU) if on_gpu else ("params/tiny/align.yaml", "")
    with tempfile.TemporaryDirectory() as cache:
        scenes = SCENES.format(rows=2048 if on_gpu else 1024, cache=cache)
        config = load_config(path, f"{scenes} {extra}")
        write_features(config.data, config.feature_spec)
        steps = training_steps(config)
        result = compare("seconds", steps, rounds=5)
    for name in steps:
        result[f"samples_per_second.{name}"] = config.train.batch_size / result[f"seconds.{name}"]
    return result | {"memory.peak_mb": peak_memory_mb()}


def training_steps(config: ExperimentConfig) -> dict[str, Callable[[], None]]:
    """A training step for each source of features, all with the same aligner."""
    table, spec = load_table(config.data, "train"), config.feature_spec
    online = replace(spec, features=spec.features.model_copy(update={"online": True}))
    from_store, encoded = (
        alignment_batches(table, open_features(s, table), config.data, config.train, config.seed)
        for s in (spec, online)
    )
    widths = {name: features.widths for name, features in from_store.features.items()}
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

    steps, in_memory = count(), from_store[0]
    return {
        "ours": lambda: step(from_store[next(steps)]),
        "online": lambda: step(encoded[next(steps)]),
        "heads_alone": lambda: step(in_memory),
    }
