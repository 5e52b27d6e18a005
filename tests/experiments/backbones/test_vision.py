"""The tiny vision backbone: examples, probe, checkpoint."""

import pytest
import torch
from transformers import ResNetModel

from edge_lib.config import ModalityConfig, VisionBackboneConfig
from edge_lib.experiments.backbones.vision import (
    SceneReader,
    cell_tokens,
    draw_scenes,
    linear_probe,
    normalise,
    occupied,
)
from edge_lib.features.vision import VisionEncoder
from edge_lib.features.weights import ASSETS
from edge_lib.sources.scenes.generate import random_scenes
from edge_lib.sources.scenes.render import SIZE, render


@pytest.fixture(scope="module")
def unseen():
    return draw_scenes("test", 400, 9, seed=7)


def test_published_resnet_recognises_unseen_writers(unseen):
    backbone = ResNetModel.from_pretrained(ASSETS / "tiny-resnet", dtype=torch.float32).eval()
    scores = linear_probe(backbone, draw_scenes("train", 1200, 9, seed=7), unseen)
    assert scores["digit"] >= 0.97
    assert scores["colour"] >= 0.97


def test_published_backbones_are_small():
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert size <= 8e6
    assert (ASSETS / "tiny-resnet" / "README.md").exists()


def test_published_processor_normalises_like_training(unseen):
    encoder = VisionEncoder(ModalityConfig(encoder="tiny-resnet"))
    images = [render(scene, "test") for scene in random_scenes("test", 3, 9, 7)]
    pixels = encoder.prepare(images)["pixel_values"]
    torch.testing.assert_close(pixels, normalise(unseen.inputs[:3]), atol=1e-5, rtol=1e-5)


def test_cell_tokens_average_the_patches_of_a_cell():
    grid = torch.arange(36.0).view(6, 6)
    expected = [grid[r : r + 2, c : c + 2].mean().item() for r in (0, 2, 4) for c in (0, 2, 4)]
    assert cell_tokens(grid[None, None])[0, :, 0].tolist() == expected


def test_labels_match_the_drawn_scenes(unseen):
    scenes = list(random_scenes("test", 400, 9, 7))
    counts = occupied(unseen.labels).sum(1).tolist()
    assert counts == [len(scene.things) for scene in scenes]
    thing = scenes[0].things[0]
    assert unseen.labels[0, thing.cell, 0] == thing.digit


def test_saved_backbone_equals_the_trained_one(tmp_path):
    torch.manual_seed(0)
    reader = SceneReader(VisionBackboneConfig(widths=[8, 16])).eval()
    reader.save_pretrained(tmp_path)
    loaded = ResNetModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    pixels = torch.randn(2, 3, SIZE, SIZE)
    states = loaded(pixels).last_hidden_state
    expected = reader.backbone(pixels).last_hidden_state
    torch.testing.assert_close(states, expected, atol=5e-3, rtol=5e-3)
    assert next(reader.backbone.parameters()).dtype == torch.float32
