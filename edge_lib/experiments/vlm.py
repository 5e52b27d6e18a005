"""The vision-language experiment as functions that `launch` can run and a notebook can call."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed

from edge_lib.config import ConfigError, ExperimentConfig
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.experiments.vlm_features import open_streams
from edge_lib.features.store import store_folder
from edge_lib.features.weights import locate
from edge_lib.models import Aligner, Fuser, read_about
from edge_lib.models.prefix_sources import FUSED, PrefixSources
from edge_lib.models.vlm import VLM
from edge_lib.runs import Run
from edge_lib.sources import load_table
from edge_lib.sources.splits import CONVERSATIONS
from edge_lib.training.fit import fit

SPLITS = tuple(f"{CONVERSATIONS}{split}" for split in ("train", "val", "test"))


def stream_config(config: ExperimentConfig, aligner_folder: Path) -> ExperimentConfig:
    """What it takes to encode the conversations' images and clips: the aligner's modalities."""
    about = config.vlm.language
    locate(about.model, about.weights)  # a name of nothing stops here, and not after encoding
    aligner, _ = read_about(aligner_folder)
    named = set(config.vlm.streams.values())
    wanted = {"vision", "audio"} if FUSED in named else named
    if missing := sorted(wanted - set(aligner.modalities)):
        raise ConfigError(f"{aligner_folder}: an aligner without {missing}, which vlm.streams name")
    if config.vlm.streams.get("audio") and aligner.audio.pooler == "tokens":
        raise ConfigError(f"{aligner_folder}: hands on as many vectors as a clip is long (pooler)")
    update = {"data": config.data, "features": config.features, "launch": config.launch}
    others = {name: None for name in aligner.modalities if name not in wanted}
    return aligner.model_copy(update=update | others | {"fusion": None})


def find_streams(config: ExperimentConfig, aligner_folder: Path) -> PrefixSources:
    """The aligner, and the fusion that its experiment (02) trained, if one is named."""
    aligner = Aligner.from_pretrained(aligner_folder)
    if config.vlm.fusion is None:
        return PrefixSources(aligner)
    found = sorted(aligner_folder.parents[1].glob("fusion-*/checkpoints/best"))
    strategies = aligner.config.fusion.strategies if aligner.config.fusion else []
    if not found or config.vlm.fusion not in strategies:
        raise ConfigError(f"{aligner_folder}: no {config.vlm.fusion} fusion was trained beside it")
    fuser = Fuser.from_pretrained(found[0], aligner, aligner.config)
    return PrefixSources(aligner, fuser.fusions[config.vlm.fusion])


def train_vlm(
    config: ExperimentConfig,
    stage: str,
    aligner_folder: Path,
    run_folder: Path,
    start: Path | None = None,
) -> dict[str, float]:
    """One stage of `config.vlm.stages` on the train conversations; keep the best loss on val.

    start: the folder of an earlier stage's VLM, to go on from.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    how, streams = config.vlm.stages[stage], config.vlm.streams
    train, val = (load_table(config.data, split) for split in SPLITS[:2])
    about = stream_config(config, aligner_folder)
    features = open_streams(streams, about, train, training=True)
    run = Run(run_folder)
    digests = [_digest(path) for path in (aligner_folder, start) if path]
    run.ensure_unchanged("started from", digests)
    stores = [(name, table) for table in (train, val) for name in about.modalities]
    used = [store_folder(about, *store).name for store in stores]
    run.ensure_unchanged("features", used)
    set_seed(config.seed)
    if start:
        vlm = VLM.from_pretrained(start, config.vlm.language)
    else:
        examples = {n: f.gather(np.flatnonzero(f.valid)[:1]) for n, f in features.items()}
        vlm = VLM.new(find_streams(config, aligner_folder), config.vlm, examples)
    vlm.train_adapters(stage == "lora")
    # text alone tells a projector nothing
    talks = train.conversations.with_items() if stage == "projector" else train.conversations
    ranks = {"rank": rank, "world_size": world_size, "accumulation": how.accumulation}
    batches = ChatBatches(talks, train, features, vlm.chat, how.batch_size, config.seed, **ranks)
    unseen, share = open_streams(streams, about, val), how.batch_size // world_size
    judged = ChatBatches(val.conversations, val, unseen, vlm.chat, share, config.seed)

    def evaluate(vlm: VLM) -> dict[str, float]:
        loss, tokens = mean_loss(vlm, judged)
        return {"val.loss": loss, "val.tokens": tokens, "score": -loss}

    metrics = fit(vlm, batches, how, run, evaluate, config.seed)
    trained = sum(p.numel() for p in vlm.parameters() if p.requires_grad)
    total = sum(p.numel() for p in vlm.parameters())
    return metrics | {"parameters.trained": trained, "parameters": total}


@torch.no_grad()
def mean_loss(vlm: VLM, batches: ChatBatches) -> tuple[float, float]:
    """Cross-entropy (nats) a token of what assistants say, whose exponential is the perplexity; and
    the number of tokens.
    """
    device = next(vlm.projectors.parameters()).device
    total = tokens = 0.0
    for batch in batches.once():
        batch = batch.to(device)
        total += vlm(batch).item() * batch.tokens
        tokens += batch.tokens
    return total / tokens, tokens


def _digest(folder: Path) -> str:
    """Of all weights in a saved model's folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
