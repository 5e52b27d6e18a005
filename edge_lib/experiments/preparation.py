"""What the points of a sweep share: a data set, a trained aligner, stored features."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from edge_lib.config import DataConfig, ExperimentConfig, FeatureSpec, SweepConfig
from edge_lib.experiments.trm_qa import QA_SPLITS, vision_spec
from edge_lib.experiments.vlm_checks import CHAT_SPLITS
from edge_lib.experiments.vlm_features import prefix_spec
from edge_lib.features.extract import extract_features, has_features, launch_logs
from edge_lib.runs.notebooks import aligner_folder, find_aligner, has_aligner
from edge_lib.runs.points import Point
from edge_lib.runs.sweep import run_sweep
from edge_lib.sources.download import download_missing
from edge_lib.sources.download.base import SUMMARY


@dataclass(frozen=True)
class Preparation:
    """Makes the inputs of some experiments unless they are there."""

    configs: list[ExperimentConfig]

    def __call__(self) -> None:
        for config in self.configs:
            download_missing(config.data)
            if config.aligner:
                find_aligner(config.aligner)
            spec, splits = _features(config)
            logs = launch_logs(config.data, spec, splits)
            extract_features(config.data, spec, splits, log_dir=logs, **config.extract_launch)


def run_prepared(points: list[Point], sweep: SweepConfig) -> list[Point]:
    """`run_sweep`; on Slurm, a job makes what the points share before they take GPUs."""
    prepare = preparation(points) if sweep.cluster == "slurm" else None
    return run_sweep(points, sweep, prepare)


def preparation(points: Iterable[Point]) -> Preparation | None:
    """Of the inputs that unfinished points lack, each once; None if they lack nothing."""
    configs = {_inputs(p.config): p.config for p in points if p.state != "done"}
    missing = [config for config in configs.values() if not _is_prepared(config)]
    return Preparation(missing) if missing else None


def _inputs(config: ExperimentConfig) -> str:
    """Equal for experiments with the same inputs."""
    encoders = {n: (m.encoder_config, m.keeps_tokens) for n, m in config.modalities.items()}
    sources = config.vlm and config.vlm.prefix_sources
    return str((config.data, config.aligner, config.features, encoders, sources))


def _is_prepared(config: ExperimentConfig) -> bool:
    if not _is_downloaded(config.data):
        return False
    if config.aligner and not has_aligner(config.aligner):
        return False
    spec, splits = _features(config)
    return not spec.modalities or has_features(config.data, spec, splits)


def _is_downloaded(data: DataConfig) -> bool:
    summary = data.download and data.download.out / SUMMARY
    return not summary or (summary.exists() and json.loads(summary.read_text())["complete"])


def _features(config: ExperimentConfig) -> tuple[FeatureSpec, tuple[str, ...]]:
    """What is encoded, of which splits; () are all."""
    if config.vlm:
        return prefix_spec(config, aligner_folder(config.aligner)), CHAT_SPLITS
    if config.qa:
        return vision_spec(config, aligner_folder(config.aligner)), QA_SPLITS
    return config.feature_spec, ()
