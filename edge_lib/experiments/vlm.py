"""Notebook 06: train a vision-language model on conversations, in stages."""

from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed

from edge_lib.config import ConfigError, ExperimentConfig
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.data.chat_store import open_tokenized
from edge_lib.experiments.vlm_checks import CHAT_SPLITS, check_count, stage_conversations
from edge_lib.experiments.vlm_features import open_prefix_features, prefix_spec
from edge_lib.features.store import store_names
from edge_lib.models import Aligner, Fuser
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.models.saving import model_digest
from edge_lib.models.vlm import VLM
from edge_lib.runs import Run
from edge_lib.sources import load_table
from edge_lib.training.device import process_rank
from edge_lib.training.fit import fit


def load_prefix_sources(config: ExperimentConfig, aligner_folder: Path) -> PrefixSources:
    """The aligner, or the fuser that the aligner's run (02) trained, if `vlm.fusion` names one."""
    strategy = config.vlm.fusion
    if strategy is None:
        return PrefixSources(Aligner.from_pretrained(aligner_folder))
    folders = aligner_folder.parents[1].glob("fusion-*/checkpoints/best")
    folders = sorted(folders, key=lambda path: int(path.parts[-3].removeprefix("fusion-")))
    fuser = Fuser.from_pretrained(folders[0]) if folders else None
    if fuser is None or strategy not in fuser.fusions:
        raise ConfigError(f"{aligner_folder}: its run trained no fusion {strategy!r}")
    return PrefixSources(fuser.select(strategy))


def train_vlm(
    config: ExperimentConfig,
    stage: str,
    aligner_folder: Path,
    run_folder: Path,
    start: Path | None = None,
) -> dict[str, float]:
    """One stage of `config.vlm.stages` on the train conversations; keep the best loss on val.

    start: the folder of an earlier stage's VLM, to continue from.
    """
    train_config, sources = config.vlm.stages[stage], config.vlm.prefix_sources
    train, val = (load_table(config.data, split) for split in CHAT_SPLITS[:2])
    spec, run = prefix_spec(config, aligner_folder), Run(run_folder)
    features = open_prefix_features(sources, spec, train, training=True)
    run.ensure_unchanged("started from", [model_digest(f) for f in (aligner_folder, start) if f])
    run.ensure_unchanged("features", store_names(spec, train, val))
    set_seed(config.seed)
    if start:
        vlm = VLM.from_pretrained(start, config.vlm.language)
    else:
        examples = {n: f.gather(np.flatnonzero(f.valid)[:1]) for n, f in features.items()}
        vlm = VLM.new(load_prefix_sources(config, aligner_folder), config.vlm.model, examples)
    vlm.train_adapters(stage == "lora")
    cache_dir = config.data.cache_dir
    conversations = stage_conversations(open_tokenized(train, vlm.chat, cache_dir), stage)
    options = train_config, config.seed, *process_rank()
    batches = ChatBatches(conversations, features, *options)
    val_features = open_prefix_features(sources, spec, val)
    held_out = ChatBatches(open_tokenized(val, vlm.chat, cache_dir), val_features, *options)
    check_count(len(held_out.conversations), val)

    def evaluate(vlm: VLM) -> dict[str, float]:
        loss, tokens = mean_loss(vlm, held_out)
        return {"val.loss": loss, "val.tokens": tokens, "score": -loss}

    metrics = fit(vlm, batches, train_config, run, evaluate, config.seed)
    trained = sum(p.numel() for p in vlm.parameters() if p.requires_grad)
    total = sum(p.numel() for p in vlm.parameters())
    return metrics | {"parameters.trained": trained, "parameters": total}


@torch.no_grad()
def mean_loss(vlm: VLM, batches: ChatBatches) -> tuple[float, float]:
    """Cross-entropy (nats) of an assistant token, whose exponential is the perplexity, and the
    number of tokens.
    """
    device = next(vlm.projectors.parameters()).device
    total = tokens = 0.0
    for batch in batches.once():
        batch = batch.to(device)
        total += vlm(batch).item() * batch.tokens
        tokens += batch.tokens
    return total / tokens, tokens
