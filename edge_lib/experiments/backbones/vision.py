"""Train the tiny vision backbone the package ships: a small residual network that reads scenes.

Its feature map has 6 x 6 places, four to a grid cell; their mean names the cell's digit, colour and
size. What ships is judged by a linear probe on writers the backbone has never seen.

Convolutions and not a vision transformer: with 1,150 digits to learn from, it pays to know
beforehand that a shape may move.
"""

from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import ResNetConfig, ResNetModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from edge_lib.config import VisionBackboneConfig
from edge_lib.experiments.backbones.examples import Examples, LabelledBatch, train_reader
from edge_lib.sources.scenes.generate import random_scenes
from edge_lib.sources.scenes.render import SIZE, labels, render
from edge_lib.sources.scenes.scene import COLOURS

# what is asked of every cell, and into how many classes; the last one: the cell is empty
QUESTIONS = {"digit": 11, "colour": len(COLOURS) + 1, "size": 3}


CARD = """# tiny-resnet

A `ResNetModel` (0.3M parameters) that reads scenes of coloured handwritten digits on a 3x3 grid
(96 x 96 pixels). Trained from scratch by `notebooks/00_backbones.ipynb` on the training writers of
scikit-learn's `load_digits`; weights in fp16. For demonstrations and tests: it knows nothing but
such scenes.

Accuracy of a linear probe on its frozen features, on writers it has never seen:

| per occupied cell | accuracy |
|---|---|
{scores}
"""


def draw_scenes(split: str, size: int, max_objects: int, seed: int, batch_size: int = 64):
    """Examples: `size` scenes by the split's writers.

    Inputs (N, 3, 96, 96) uint8; labels (N, 9, 3), the last class of each question where a cell is
    empty.
    """
    made = list(random_scenes(split, size, max_objects, seed))
    pixels = np.stack([np.asarray(render(scene, split)) for scene in made])
    labels = torch.from_numpy(np.stack([labels(scene) for scene in made]))
    empty = torch.tensor(list(QUESTIONS.values())) - 1
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return Examples(pixels, torch.where(labels < 0, empty, labels), batch_size, seed)


class SceneReader(nn.Module):
    """A backbone with a linear head that names what stands in each cell."""

    def __init__(self, config: VisionBackboneConfig):
        super().__init__()
        self.backbone = ResNetModel(
            ResNetConfig(
                embedding_size=config.widths[0],
                hidden_sizes=config.widths,
                depths=[config.blocks] * len(config.widths),
                layer_type="basic",
            )
        )
        self.head = nn.Linear(config.widths[-1], sum(QUESTIONS.values()))

    def answers(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, 96, 96) uint8 -> logits (B, 9, classes) of each question."""
        cells = cell_tokens(self.backbone(normalise(pixels)).last_hidden_state)
        return self.head(cells).float().split(list(QUESTIONS.values()), dim=-1)

    def forward(self, batch: LabelledBatch) -> torch.Tensor:
        """Mean cross-entropy of the cells' answers."""
        parts, labels = self.answers(batch.inputs), batch.labels.flatten(0, 1).unbind(-1)
        pairs = zip(parts, labels, strict=True)
        return torch.stack([F.cross_entropy(part.flatten(0, 1), y) for part, y in pairs]).mean()

    @torch.no_grad()
    def accuracy(self, data: Examples) -> dict[str, float]:
        """Share of occupied cells whose digit, colour and size are named right."""
        right, device = [], self.head.weight.device
        for batch in data.chunks():
            parts = self.answers(batch.inputs.to(device))
            named = torch.stack([part.argmax(-1).cpu() for part in parts], dim=-1)  # (B, 9, 3)
            right.append((named == batch.labels)[occupied(batch.labels)])
        return dict(zip(QUESTIONS, torch.cat(right).float().mean(0).tolist(), strict=True))

    def save_pretrained(self, folder: Path) -> None:
        """The backbone alone, in half precision, as a checkpoint any `from_pretrained` reads."""
        deepcopy(self.backbone).half().save_pretrained(folder)
        side = {"height": SIZE, "width": SIZE}
        CLIPImageProcessorPil(
            size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ).save_pretrained(folder)


def train_vision(config: VisionBackboneConfig, seed: int, run_folder: Path) -> dict[str, float]:
    """Train a `SceneReader` on train writers; keep the one that reads val writers' digits best."""

    def evaluate(reader: SceneReader, data: Examples) -> dict[str, float]:
        accuracy = reader.accuracy(data)
        return {**{f"val.{k}": v for k, v in accuracy.items()}, "score": accuracy["digit"]}

    new = partial(SceneReader, config)
    return train_reader(new, draw_scenes, config, evaluate, seed, run_folder)


def linear_probe(backbone: nn.Module, train: Examples, test: Examples) -> dict:
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
def _cell_features(backbone: nn.Module, data: Examples) -> tuple[np.ndarray, np.ndarray]:
    """(cells, D) features and (cells, 3) labels of the occupied cells."""
    parts = data.inputs.split(256)
    cells = torch.cat([cell_tokens(backbone(normalise(p)).last_hidden_state) for p in parts])
    there = occupied(data.labels)
    return cells[there].numpy(), data.labels[there].numpy()


def cell_tokens(feature_map: torch.Tensor) -> torch.Tensor:
    """(B, D, 6, 6) feature map -> (B, 9, D) means over cells."""
    return F.avg_pool2d(feature_map, feature_map.shape[-1] // 3).flatten(2).transpose(1, 2)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 -> [-1, 1], as the saved image processor does."""
    return pixels.float() / 127.5 - 1


def occupied(labels: torch.Tensor) -> torch.Tensor:
    """(B, 9, 3) labels -> (B, 9) bool."""
    return labels[..., 0] < QUESTIONS["digit"] - 1
