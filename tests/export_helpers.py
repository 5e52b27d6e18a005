"""Inputs of exported graphs, and running one."""

import numpy as np
import onnxruntime
import torch
from PIL import Image

TEXTS = ["two", "a large red three at the top left", "words " * 80, "ä 日本 🙂", "a blue seven"]


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


def pictures(count):
    noise = np.random.default_rng(0).integers(0, 256, (count, 40, 30, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def clips(count):
    """Longer and shorter than the encoder's 2 s."""
    random = np.random.default_rng(0)
    sizes = [400, 16_000, 40_000, 31_999, 20_001][:count]
    return [random.normal(0, 0.1, size).astype(np.float32) for size in sizes]


def items(modality, count):
    return {"vision": pictures, "audio": clips, "text": lambda n: TEXTS[:n]}[modality](count)


def run(graph, inputs, **extra):
    feed = {name: value.numpy() for name, value in inputs.items()} | extra
    return [torch.from_numpy(x) for x in session(graph).run(None, feed)]
