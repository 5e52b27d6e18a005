"""Train the tiny vision backbone the package ships: a CLIP vision transformer that reads scenes.

Each grid cell covers a square of patches. The mean of their last hidden states names the cell's
digit, colour and size; the pooled vector must name all nine cells at once, so that it too says
something. What ships is judged by a linear probe on writers the backbone has never seen.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from edge_lib.config import BackboneConfig, ExperimentConfig
from edge_lib.data import scenes
from edge_lib.runs import Run
from edge_lib.train import fit

# what is asked of every cell, and into how many classes; the last one: the cell is empty
QUESTIONS = {"digit": 11, "colour": len(scenes.COLOURS) + 1, "size": 3}

CARD = """# tiny-clip

A `CLIPVisionModel` that reads scenes of coloured handwritten digits on a 3x3 grid (96 x 96 pixels).
Trained from scratch by `notebooks/00_backbones.ipynb` on the training writers of scikit-learn's
`load_digits`; weights in fp16. For demonstrations and tests: it knows nothing but such scenes.

Accuracy of a linear probe on its frozen features, on writers it has never seen:

| per occupied cell | accuracy |
|---|---|
{scores}
"""


@dataclass
class LabelledScenes(Dataset):
    """Rendered scenes as a training set: batches are a function of their number."""

    pixels: torch.Tensor  # (N, 3, 96, 96) uint8
    labels: torch.Tensor  # (N, 9, 3), the last class of each question where a cell is empty
    batch_size: int = 64
    seed: int = 0

    @classmethod
    def make(cls, split: str, size: int, max_objects: int, seed: int, batch_size: int = 64):
        made = list(scenes.random_scenes(split, size, max_objects, seed))
        pixels = np.stack([np.asarray(scenes.render(scene, split)) for scene in made])
        labels = torch.from_numpy(np.stack([scenes.labels(scene) for scene in made]))
        empty = torch.tensor(list(QUESTIONS.values())) - 1
        pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return cls(pixels, torch.where(labels < 0, empty, labels), batch_size, seed)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.pixels) // self.batch_size

    def _rows(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pixels))
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def ids(self, step: int) -> list[str]:
        return [f"scene {row}" for row in self._rows(step)]

    def __getitem__(self, step: int) -> "LabelledBatch":
        rows = self._rows(step)
        return LabelledBatch(normalise(self.pixels[rows]), self.labels[rows])


@dataclass
class LabelledBatch:
    pixels: torch.Tensor  # (B, 3, 96, 96)
    labels: torch.Tensor  # (B, 9, 3)

    def to(self, device) -> "LabelledBatch":
        return LabelledBatch(self.pixels.to(device), self.labels.to(device))


class SceneReader(nn.Module):
    """A backbone with linear heads that name what stands in each cell."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.backbone = CLIPVisionModel(
            CLIPVisionConfig(
                image_size=scenes.SIZE,
                patch_size=config.patch_size,
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
            )
        )
        self.local = nn.Linear(config.width, sum(QUESTIONS.values()))
        self.overall = nn.Linear(config.width, 9 * sum(QUESTIONS.values()))

    def forward(self, batch: LabelledBatch) -> torch.Tensor:
        """Mean cross-entropy of the cells' answers, from the cells and from the pooled vector."""
        output = self.backbone(batch.pixels)
        local = self.local(cell_tokens(output.last_hidden_state))  # (B, 9, C)
        overall = self.overall(output.pooler_output).unflatten(1, (9, -1))  # (B, 9, C)
        # the cells' own answers are what matters; the pooled vector is only kept informative
        return _cross_entropy(local, batch.labels) + 0.3 * _cross_entropy(overall, batch.labels)

    @torch.no_grad()
    def accuracy(self, data: LabelledScenes) -> dict[str, float]:
        """Share of occupied cells whose digit, colour and size are named right."""
        right = []
        for pixels, labels in zip(data.pixels.split(256), data.labels.split(256), strict=True):
            hidden = self.backbone(normalise(pixels)).last_hidden_state
            parts = self.local(cell_tokens(hidden)).split(list(QUESTIONS.values()), dim=-1)
            named = torch.stack([part.argmax(-1) for part in parts], dim=-1)  # (B, 9, 3)
            right.append((named == labels)[occupied(labels)])
        return dict(zip(QUESTIONS, torch.cat(right).float().mean(0).tolist(), strict=True))

    def save_pretrained(self, folder: Path) -> None:
        """The backbone alone, in half precision, as a checkpoint any `from_pretrained` reads."""
        self.backbone.half().save_pretrained(folder)
        self.backbone.float()
        side = {"height": scenes.SIZE, "width": scenes.SIZE}
        CLIPImageProcessorPil(
            size=side,
            crop_size=side,
            do_center_crop=False,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ).save_pretrained(folder)


def train_backbone(config: ExperimentConfig, run_folder: Path) -> dict[str, float]:
    """Train a `SceneReader` on train writers; keep the one that reads val writers' digits best."""
    if int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError("the tiny backbone trains on one process; set launch.num_processes=1")
    data, size = config.data.scenes, config.train.batch_size
    train = LabelledScenes.make("train", data.train_size, data.max_objects, config.seed, size)
    val = LabelledScenes.make("val", data.val_size, data.max_objects, config.seed)
    set_seed(config.seed)

    def evaluate(reader: SceneReader) -> dict[str, float]:
        accuracy = reader.accuracy(val)
        return {**{f"val.{k}": v for k, v in accuracy.items()}, "score": accuracy["digit"]}

    reader = SceneReader(config.backbone)
    return fit(reader, train, config.train, Run(run_folder), evaluate, config.seed)


def publish(checkpoint: Path, output: Path, scores: dict[str, float]) -> Path:
    """Copy a checkpoint to where the package ships it, with a model card that holds its scores."""
    shutil.copytree(checkpoint, output, dirs_exist_ok=True)
    lines = "\n".join(f"| {name} | {score:.4f} |" for name, score in scores.items())
    (output / "README.md").write_text(CARD.format(scores=lines))
    return output


def linear_probe(backbone: nn.Module, train: LabelledScenes, test: LabelledScenes) -> dict:
    """Accuracy on `test` of logistic regressions on frozen cell means (N, D) fitted to `train`."""
    x, y = _cell_features(backbone, train)
    x_test, y_test = _cell_features(backbone, test)
    centre, spread = x.mean(0), x.std(0)
    scores = {}
    for column, question in enumerate(QUESTIONS):
        probe = LogisticRegression(max_iter=300).fit((x - centre) / spread, y[:, column])
        scores[question] = probe.score((x_test - centre) / spread, y_test[:, column])
    return scores


@torch.no_grad()
def _cell_features(backbone: nn.Module, data: LabelledScenes) -> tuple[np.ndarray, np.ndarray]:
    """(cells, D) features and (cells, 3) labels of the occupied cells."""
    parts = data.pixels.split(256)
    cells = torch.cat([cell_tokens(backbone(normalise(p)).last_hidden_state) for p in parts])
    there = occupied(data.labels)
    return cells[there].numpy(), data.labels[there].numpy()


def cell_tokens(hidden: torch.Tensor) -> torch.Tensor:
    """(B, 1 + n*n, D) hidden states of a ViT, class token first -> (B, 9, D) means over cells."""
    side = int((hidden.shape[1] - 1) ** 0.5)
    grid = hidden[:, 1:].unflatten(1, (3, side // 3, 3, side // 3))
    return grid.mean(dim=(2, 4)).flatten(1, 2)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 -> [-1, 1], as the saved image processor does."""
    return pixels.float() / 127.5 - 1


def occupied(labels: torch.Tensor) -> torch.Tensor:
    """(B, 9, 3) labels -> (B, 9) bool."""
    return labels[..., 0] < QUESTIONS["digit"] - 1


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B, 9, C) logits, C split among the questions, and (B, 9, 3) labels -> scalar."""
    parts = logits.float().split(list(QUESTIONS.values()), dim=-1)
    answers = labels.flatten(0, 1).unbind(-1)
    losses = [F.cross_entropy(p.flatten(0, 1), y) for p, y in zip(parts, answers, strict=True)]
    return torch.stack(losses).mean()
