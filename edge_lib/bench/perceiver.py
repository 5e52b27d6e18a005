"""Cost of poolers by sequence length, against self-attention over all tokens.

The rival is a transformer layer of the same width and heads over the whole sequence, then a mean:
O(tokens^2), where the Perceiver is O(latents x tokens). Measured forward and backward, at batch
size 8 and width 256.
"""

from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import pandas as pd
import torch
from torch import nn

from edge_lib.bench.tools import compare, peak_memories
from edge_lib.config import DataConfig, FeatureSpec, ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.store import open_stores
from edge_lib.nn.heads import ModalityHead, build_head
from edge_lib.nn.poolers import build_pooler
from edge_lib.sources import load_table
from edge_lib.training.device import local_device
from edge_lib.training.timing import seconds

LENGTHS = (64, 128, 256, 512, 1024, 1536)
WIDTH, HEADS, BATCH = 256, 8, 8
SETTINGS = {
    "ours_mean": {"pooler": "mean"},
    "ours_attention": {"pooler": "attention"},
    "ours": {"pooler": "perceiver", "num_latents": 16, "num_layers": 1},
    "ours_perceiver_64x2": {"pooler": "perceiver", "num_latents": 64, "num_layers": 2},
}


class SelfAttentionPooler(nn.Module):
    """Self-attention over all tokens, then their mean."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        options = {"batch_first": True, "norm_first": True, "activation": "gelu", "dropout": 0.0}
        self.layer = nn.TransformerEncoderLayer(width, heads, 4 * width, **options)

    def forward(self, encoded: EncoderOutput) -> torch.Tensor:
        """EncoderOutput -> (B, 1, W)."""
        return self.layer(encoded.tokens, src_key_padding_mask=~encoded.mask).mean(1, keepdim=True)


def pooler_step(name: str, length: int) -> Callable[[], None]:
    """A function that runs forward and backward of a pooler on tokens (BATCH, length, WIDTH)."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "self_attention":
        pooler = SelfAttentionPooler(WIDTH, HEADS).to(device)
    else:
        config = ModalityConfig(encoder="-", width=WIDTH, num_heads=HEADS, **SETTINGS[name])
        pooler = build_pooler(config, WIDTH, WIDTH).to(device)
    tokens = torch.randn(BATCH, length, WIDTH, device=device, requires_grad=True)
    mask = torch.ones(BATCH, length, dtype=torch.bool, device=device)
    mask[0, length // 2 :] = False  # padding, as in real batches
    encoded = EncoderOutput(tokens, mask, tokens.mean(1))
    trained = [tokens, *pooler.parameters()]
    return lambda: torch.autograd.grad(pooler(encoded).square().sum(), trained)


def perceiver(lengths: tuple[int, ...] = LENGTHS) -> dict[str, float]:
    """Seconds and peak MB of each pooler at each length; `ours` has 16 latents and one layer."""
    names, result = (*SETTINGS, "self_attention"), {}
    for length in lengths:
        steps = {name: pooler_step(name, length) for name in names}
        result |= compare(f"seconds.t{length}", steps, rounds=5)
    for name in names:
        peaks = peak_memories(pooler_step, [(name, length) for length in lengths])
        result |= {f"memory_mb.t{n}.{name}": mb for n, mb in zip(lengths, peaks, strict=True)}
    return result


def head_costs(
    data: DataConfig, spec: FeatureSpec, dims: list[int], batch_size: int
) -> pd.DataFrame:
    """Cost of each head with token features, on a batch of training items.

    Columns: modality, tokens in, tokens out, parameters, ms (forward and backward).
    """
    stores, rows = open_stores(spec, load_table(data, "train")), []
    for name, store in stores.items():
        encoded = store.gather(np.flatnonzero(store.valid)[:batch_size]).to(local_device())
        if encoded.tokens is None:
            continue
        head = build_head(spec.modalities[name], dims, *store.widths).to(local_device())
        parameters = list(head.parameters())
        step = partial(_head_step, head, encoded, parameters)
        step()
        rows.append(
            {
                "modality": name,
                "tokens in": encoded.tokens.shape[1],
                "tokens out": head(encoded)[0].shape[1],
                "parameters": sum(p.numel() for p in parameters),
                "ms": 1e3 * median(seconds(step) for _ in range(5)),
            }
        )
    return pd.DataFrame(rows)


def _head_step(head: ModalityHead, encoded: EncoderOutput, parameters: list) -> None:
    torch.autograd.grad(head(encoded)[1].square().sum(), parameters)


def cost_curves(result: dict[str, float]) -> pd.DataFrame:
    """The result of `perceiver` as a table: tokens, variant, seconds, memory_mb."""
    rows = {}
    for key, value in result.items():
        metric, length, variant, *rest = key.split(".")
        if not rest:
            rows.setdefault((int(length[1:]), variant), {})[metric] = value
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["tokens", "variant"])
    table = table.reset_index()
    names = table["variant"].replace({"ours": "perceiver_16x1"}).str.removeprefix("ours_")
    return table.assign(variant=names.str.replace("_", " "))
