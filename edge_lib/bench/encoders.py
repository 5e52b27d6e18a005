"""Extraction against the loops of sentence-transformers, transformers and open_clip: the same
model, inputs and threads.

Captions go through all-MiniLM-L6-v2, images through the shape of CLIP ViT-B/32 with random weights.
Ours is all of extraction, from the table to shards on disk; rivals get captions and images that are
decoded already, and keep pooled vectors in memory. `limit` makes the products with weights alone.
"""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor, nn

from edge_lib.bench.tools import compare
from edge_lib.config import load_config
from edge_lib.features.encoder import Encoder, load_encoder
from edge_lib.features.store import open_store
from edge_lib.features.store_writer import StoreWriter
from edge_lib.sources import load_table

OPTIONS = "data.scenes.train_size={rows} data.scenes.val_size=4 data.scenes.test_size=4 "
OPTIONS += "vision.encoder=clip-vit-base-patch32 vision.weights=random "
OPTIONS += "vision.pooler=pooled features.precision=fp32 data.cache_dir={folder}"
MODALITIES = {"captions": "text", "images": "vision"}
BATCH = 32  # sentence-transformers' default
Functions = dict[str, Callable]


def encoders(captions: int = 1000, images: int = 64, rounds: int = 5) -> dict[str, float]:
    """Seconds and items per second of captions and images, and the lowest cosine to transformers'
    vectors.
    """
    result = {}
    for name, count in {"captions": captions, "images": images}.items():
        with tempfile.TemporaryDirectory() as folder:
            result |= _measure(name, count, rounds, Path(folder))
    return result


def _measure(name: str, count: int, rounds: int, folder: Path) -> dict[str, float]:
    config = load_config("params/tiny/align.yaml", OPTIONS.format(rows=count, folder=folder))
    spec, modality = config.feature_spec, MODALITIES[name]
    writer = StoreWriter(spec, modality, load_table(config.data, "train"))
    encoder = load_encoder(modality, spec.modalities[modality].encoder_config)
    items = writer.items.load(range(count))
    functions = {"ours": partial(extract, writer, encoder)} | rivals(encoder, items, name)
    functions["limit"] = weight_products(encoder, functions["ours"])
    result = compare(f"seconds.{name}", functions, rounds)
    stored = open_store(spec, modality, writer.table).gather(range(count)).pooled
    cosines = torch.cosine_similarity(stored, functions["transformers"]())
    result[f"cosine.{name}.min"] = float(cosines.min())
    for rival in functions:
        result[f"items_per_second.{name}.{rival}"] = count / result[f"seconds.{name}.{rival}"]
    return result


def extract(writer: StoreWriter, encoder: Encoder) -> None:
    """Write a store anew, with an encoder that is loaded."""
    shutil.rmtree(writer.folder, ignore_errors=True)
    writer.write(lambda: encoder)
    writer.finish()


def rivals(encoder: Encoder, items: list, name: str) -> Functions:
    """Functions that return pooled vectors (N, P) of captions or images."""
    if name == "captions":
        model = encoder.model
        return {
            "sentence_transformers": partial(model.encode, items, convert_to_tensor=True),
            "transformers": partial(loop, items, model.tokenizer, partial(_mean, model[0].model)),
        }
    visual = open_clip_tower(encoder.model.config)
    return {
        "transformers": partial(loop, items, encoder.processor, partial(_pooled, encoder.model)),
        "open_clip": partial(loop, items, encoder.processor, visual),
    }


@torch.inference_mode()
def loop(items: list, processor: Callable, model: Callable[..., Tensor]) -> Tensor:
    """The loop that transformers documents: batches in the order of the items."""
    batches = (items[i : i + BATCH] for i in range(0, len(items), BATCH))
    options = {"return_tensors": "pt"} | ({"padding": True} if isinstance(items[0], str) else {})
    return torch.cat([model(*processor(batch, **options).values()) for batch in batches])


def _mean(model: nn.Module, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
    tokens = model(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return nn.functional.normalize(mean, dim=1)


def _pooled(model: nn.Module, pixels: Tensor) -> Tensor:
    return model(pixels).pooler_output


def open_clip_tower(config) -> nn.Module:
    """open_clip's vision transformer of the shape of a transformers config."""
    transformer = _open_clip()
    return transformer.VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        output_dim=config.projection_dim,
        act_layer=transformer.QuickGELU,
    ).eval()


def _open_clip():
    """Its module of transformers, without the others, which need torchvision."""
    spec = importlib.util.find_spec("open_clip")
    stubs = dict.fromkeys(("torchvision", "torchvision.ops", "torchvision.ops.misc"), MagicMock())
    package = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, stubs | {"open_clip": package}):
        return importlib.import_module("open_clip.transformer")


def weight_products(model: nn.Module, encode: Callable) -> Callable[[], None]:
    """A function that makes the products with a model's weights that `encode` makes, in the same
    order, with random inputs in place.
    """
    products, layers = [], [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]

    def record(layer: nn.Module, _, output: Tensor) -> None:
        weight = layer.weight.flatten(1).T
        products.append((weight, output.numel() // weight.shape[1]))

    hooks = [layer.register_forward_hook(record) for layer in layers]
    encode()
    for hook in hooks:
        hook.remove()
    sizes = {(rows, width) for weight, rows in products for width in weight.shape}
    buffers = {size: torch.randn(size) for size in sizes}

    @torch.inference_mode()
    def multiply() -> None:
        for weight, rows in products:
            x, y = (buffers[rows, width] for width in weight.shape)
            torch.mm(x, weight, out=y)

    return multiply
