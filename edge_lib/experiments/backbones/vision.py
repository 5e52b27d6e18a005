"""Train the tiny vision backbone that the package ships: a small ResNet that recognises scenes.

Its feature map has 6 x 6 positions, four in each cell of the grid. From their mean a linear head
classifies the digit, colour and size in the cell. The published model is evaluated by a linear
probe on unseen writers.

It is convolutional, not a vision transformer: translation invariance matters with only about 1,150
handwritten digits to train on.
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
from edge_lib.experiments.backbones.examples import ExampleBatches, LabelledBatch
from edge_lib.experiments.backbones.training import train_on_scenes
from edge_lib.runs.tensors import share_tensors
from edge_lib.sources.scenes.generate import random_scenes
from edge_lib.sources.scenes.render import SIZE, cell_labels, render
from edge_lib.sources.scenes.scene import COLOURS

# classes of each question about a cell; the last class: the cell is empty
QUESTIONS = {"digit": 11, "colour": len(COLOURS) + 1, "size": 3}

CARD = """# tiny-resnet

A `ResNetModel` (0.3M parameters) trained from scratch by `notebooks/00_backbones.ipynb` on scenes
of coloured handwritten digits on a 3x3 grid (96 x 96 pixels), in the handwriting of the training
writers of scikit-learn's `load_digits`. Weights in fp16. For demonstrations and tests only: it has
seen no other images.

Accuracy of a linear probe on its frozen features, on unseen writers:

| per occupied cell | accuracy |
|---|---|
{scores}
"""


def draw_scenes(
    split: str, size: int, max_objects: int, seed: int, batch_size: int = 64
) -> ExampleBatches:
    """`size` random scenes in the handwriting of the split's writers.

    Inputs (N, 3, 96, 96) uint8; labels (N, 9, 3), the last class of each question for empty cells.
    """
    scenes = list(random_scenes(split, size, max_objects, seed))
    pixels = np.stack([np.asarray(render(scene, split)) for scene in scenes])
    labels = torch.from_numpy(np.stack([cell_labels(scene) for scene in scenes]))
    empty = torch.tensor(list(QUESTIONS.values())) - 1
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return ExampleBatches(pixels, torch.where(labels < 0, empty, labels), batch_size, seed)


class SceneReader(nn.Module):
    """A ResNet with a linear head that classifies digit, colour and size in each cell."""

    def __init__(self, config: VisionBackboneConfig):
        super().__init__()
        sizes = {"embedding_size": config.widths[0], "hidden_sizes": config.widths}
        sizes["depths"] = [config.blocks] * len(config.widths)
        self.backbone = ResNetModel(ResNetConfig(**sizes, layer_type="basic"))
        self.head = nn.Linear(config.widths[-1], sum(QUESTIONS.values()))

    def logits(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, 96, 96) uint8 -> (B, 9, classes) for each question."""
        cells = cell_tokens(self.backbone(normalise(pixels)).last_hidden_state)
        return self.head(cells).float().split(list(QUESTIONS.values()), dim=-1)

    def forward(self, batch: LabelledBatch) -> torch.Tensor:
        """Mean cross-entropy () over cells and questions."""
        parts, labels = self.logits(batch.inputs), batch.labels.flatten(0, 1).unbind(-1)
        pairs = zip(parts, labels, strict=True)
        return torch.stack([F.cross_entropy(part.flatten(0, 1), y) for part, y in pairs]).mean()

    @torch.no_grad()
    def accuracy(self, data: ExampleBatches) -> dict[str, float]:
        """Share of occupied cells whose digit, colour and size are classified right."""
        right, device = [], self.head.weight.device
        for batch in data.chunks():
            parts = self.logits(batch.inputs.to(device))
            classes = torch.stack([part.argmax(-1).cpu() for part in parts], dim=-1)  # (B, 9, 3)
            right.append((classes == batch.labels)[occupied(batch.labels)])
        return dict(zip(QUESTIONS, torch.cat(right).float().mean(0).tolist(), strict=True))

    def save_pretrained(self, folder: Path) -> None:
        """Write the backbone (fp16) and its image processor as a transformers checkpoint."""
        deepcopy(self.backbone).half().save_pretrained(folder)
        share_tensors(folder)
        side = {"height": SIZE, "width": SIZE}
        CLIPImageProcessorPil(
            size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ).save_pretrained(folder)


def train_vision(config: VisionBackboneConfig, seed: int, run_folder: Path) -> dict[str, float]:
    """Train a `SceneReader` on the train writers; keep the checkpoint with the best digit accuracy
    on the val writers.
    """

    def evaluate(reader: SceneReader, data: ExampleBatches) -> dict[str, float]:
        accuracy = reader.accuracy(data)
        return {**{f"val.{k}": v for k, v in accuracy.items()}, "score": accuracy["digit"]}

    make_model = partial(SceneReader, config)
    return train_on_scenes(make_model, draw_scenes, config, evaluate, seed, run_folder)


def linear_probe(backbone: nn.Module, train: ExampleBatches, test: ExampleBatches) -> dict:
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
def _cell_features(backbone: nn.Module, data: ExampleBatches) -> tuple[np.ndarray, np.ndarray]:
    """(cells, D) features and (cells, 3) labels of the occupied cells."""
    parts = data.inputs.split(256)
    cells = torch.cat([cell_tokens(backbone(normalise(p)).last_hidden_state) for p in parts])
    mask = occupied(data.labels)
    return cells[mask].numpy(), data.labels[mask].numpy()


def cell_tokens(feature_map: torch.Tensor) -> torch.Tensor:
    """(B, D, 6, 6) feature map -> (B, 9, D) mean of each cell."""
    return F.avg_pool2d(feature_map, feature_map.shape[-1] // 3).flatten(2).transpose(1, 2)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 -> [-1, 1], like the saved image processor."""
    return pixels.float() / 127.5 - 1


def occupied(labels: torch.Tensor) -> torch.Tensor:
    """(B, 9, 3) labels -> (B, 9) bool: whether a digit is in the cell."""
    return labels[..., 0] < QUESTIONS["digit"] - 1
