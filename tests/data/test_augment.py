"""Random crops: their size and shape, without flips."""

import numpy as np
import pytest
import torch
from PIL import Image

from edge_lib.data.augment import random_crop


@pytest.fixture
def boxes(monkeypatch):
    """The boxes of all crops during a test."""
    boxes = []
    crop = Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda i, box: boxes.append(box) or crop(i, box))
    return boxes


@pytest.mark.parametrize("size", [(96, 96), (320, 200), (31, 500)], ids=str)
def test_crops_keep_most_of_the_image_and_its_shape(boxes, size):
    torch.manual_seed(0)
    image = Image.new("RGB", size)
    for _ in range(300):
        assert random_crop(image).size == size
    left, top, right, bottom = np.array(boxes, float).T
    assert min(left.min(), top.min()) >= 0
    assert right.max() <= size[0]
    assert bottom.max() <= size[1]
    width, height = right - left, bottom - top
    slack = 1 / min(size)
    area = width * height / (size[0] * size[1])
    assert area.min() > 0.8 - 2 * slack
    assert area.min() < 0.83
    assert area.max() > 0.97
    stretch = width / height / (size[0] / size[1])
    assert stretch.min() > 0.9 - 2 * slack
    assert stretch.max() < 1.1 + 2 * slack
    assert stretch.max() - stretch.min() > 0.12
    assert len(set(boxes)) > 30


def test_crops_reach_every_edge(boxes):
    torch.manual_seed(0)
    for _ in range(300):
        random_crop(Image.new("RGB", (96, 96)))
    left, top, right, bottom = np.array(boxes).T
    assert (left.min(), top.min(), right.max(), bottom.max()) == (0, 0, 96, 96)
    assert min(left.max(), top.max()) > 5


def test_crops_are_neither_flipped_nor_rotated():
    torch.manual_seed(0)
    x, y = np.meshgrid(np.arange(0, 240, 5), np.arange(0, 240, 5))
    image = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    for _ in range(50):
        red, green, _ = np.moveaxis(np.asarray(random_crop(image)).astype(int), -1, 0)
        assert red[:, -5:].mean() - red[:, :5].mean() > 120
        assert green[-5:].mean() - green[:5].mean() > 120
        assert abs(red[-5:].mean() - red[:5].mean()) < 5


def test_crops_follow_the_seed():
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise)

    def crops(seed):
        torch.manual_seed(seed)
        return [random_crop(image).tobytes() for _ in range(5)]

    assert crops(1) == crops(1)
    assert crops(1) != crops(2)
    assert len(set(crops(1))) == 5


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 50), (3, 3)], ids=str)
def test_crops_of_tiny_images_keep_size_and_colour(size):
    torch.manual_seed(0)
    colour = (200, 10, 90)
    for _ in range(50):
        cropped = random_crop(Image.new("RGB", size, colour))
        assert cropped.size == size
        assert cropped.getpixel((0, 0)) == colour
