"""Training and publication of the tiny backbones."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from accelerate.utils import set_seed
from torch import nn

from edge_lib.config import SpeechBackboneConfig, VisionBackboneConfig
from edge_lib.experiments.backbones.examples import ExampleBatches
from edge_lib.runs import Run
from edge_lib.training.device import process_rank
from edge_lib.training.fit import fit


def train_on_scenes(
    make_model: Callable[[], nn.Module],
    make_examples: Callable[..., ExampleBatches],
    config: VisionBackboneConfig | SpeechBackboneConfig,
    evaluate: Callable[[nn.Module, ExampleBatches], dict[str, float]],
    seed: int,
    run_folder: Path,
) -> dict[str, float]:
    """Train a model on examples of the train split; `evaluate` scores it on those of val."""
    require_one_process()
    data = config.data
    train = make_examples("train", data.train_size, data.max_objects, seed, config.train.batch_size)
    val = make_examples("val", data.val_size, data.max_objects, seed)
    set_seed(seed)
    run = Run(run_folder)
    return fit(make_model(), train, config.train, run, partial(evaluate, data=val), seed)


def require_one_process() -> None:
    """Raise ValueError if several processes were launched: the batches are not split over them."""
    if process_rank()[1] > 1:
        raise ValueError("the tiny backbones train on one process; set launch.num_processes=1")


def publish(checkpoint: Path, output: Path, card: str, scores: dict[str, float]) -> Path:
    """Copy a checkpoint to the folder that the package ships, with a model card of its scores."""
    shutil.copytree(checkpoint, output, dirs_exist_ok=True)
    lines = "\n".join(f"| {name} | {score:.4f} |" for name, score in scores.items())
    (output / "README.md").write_text(card.format(scores=lines))
    return output
