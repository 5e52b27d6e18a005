"""What a pooler costs as its sequence grows, against self-attention over all tokens.

The rival is a transformer layer of the same width and heads over the whole sequence, and a mean:
O(tokens^2) where the Perceiver is O(latents x tokens). Forward and backward, batch of 8, width 256.
"""

from collections.abc import Callable
from functools import partial
from statistics import median

import pandas as pd
import torch
from torch import nn

from edge_lib.bench.tools import compare, peak_memories
from edge_lib.config import ExperimentConfig, ModalityConfig
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.online import open_features
from edge_lib.nn.heads import ModalityHead
from edge_lib.nn.poolers import POOLERS
from edge_lib.sources import load_table
from edge_lib.training.device import local_device
from edge_lib.training.timing import seconds

LENGTHS = (64, 128, 256, 512, 1024, 1536)
WIDTH, HEADS, BATCH = 256, 8, 8
SETTINGS = {
    "mean": {"pooler": "mean"},
    "attention": {"pooler": "attention"},
    "ours": {"pooler": "perceiver", "num_latents": 16, "num_layers": 1},
    "perceiver_64x2": {"pooler": "perceiver", "num_latents": 64, "num_layers": 2},
}


class SelfAttentionPooler(nn.Module):
    """The rival: every token attends to every other."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        how = {"batch_first": True, "norm_first": True, "activation": "gelu", "dropout": 0.0}
        self.layer = nn.TransformerEncoderLayer(width, heads, 4 * width, **how)

    def forward(self, encoded: EncoderOutput) -> torch.Tensor:
        """EncoderOutput -> (B, 1, W)."""
        return self.layer(encoded.tokens, src_key_padding_mask=~encoded.mask).mean(1, keepdim=True)


def pooler_step(name: str, length: int) -> Callable[[], None]:
    """Forward and backward of one pooler on (BATCH, length, WIDTH) tokens, to be measured."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "self_attention":
        pooler = SelfAttentionPooler(WIDTH, HEADS).to(device)
    else:
        config = ModalityConfig(encoder="-", width=WIDTH, num_heads=HEADS, **SETTINGS[name])
        pooler = POOLERS[config.pooler](config, WIDTH, WIDTH).to(device)
    tokens = torch.randn(BATCH, length, WIDTH, device=device, requires_grad=True)
    mask = torch.ones(BATCH, length, dtype=torch.bool, device=device)
    mask[0, length // 2 :] = False  # padding, as in real batches
    encoded = EncoderOutput(tokens, mask, tokens.mean(1))
    trained = [tokens, *pooler.parameters()]
    return lambda: torch.autograd.grad(pooler(encoded).square().sum(), trained)


def perceiver(lengths: tuple[int, ...] = LENGTHS) -> dict[str, float]:
    """Seconds and peak MB of each pooler at each length; `ours` is 16 latents, one layer."""
    names, result = (*SETTINGS, "self_attention"), {}
    for length in lengths:
        steps = {name: pooler_step(name, length) for name in names}
        result |= compare(f"seconds.t{length}", steps, rounds=5)
    for name in names:
        peaks = peak_memories(pooler_step, [(name, length) for length in lengths])
        result |= {f"memory_mb.t{n}.{name}": mb for n, mb in zip(lengths, peaks, strict=True)}
    return result


def head_costs(config: ExperimentConfig) -> pd.DataFrame:
    """What each head costs on a batch of its training features: a line for each modality that has
    tokens, with tokens in and out, trained parameters, and milliseconds forward and backward.
    """
    train = load_table(config.data, "train")
    batch = AlignmentBatches(train, open_features(config, train), config)[0]
    rows = []
    for name, modality in config.modalities.items():
        if batch.features[name].tokens is None:
            continue
        encoded = batch.features[name].to(local_device())
        widths = encoded.tokens.shape[-1], encoded.pooled.shape[-1]
        head = ModalityHead(modality, config.loss.dims, *widths).to(local_device())
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
    """`perceiver`'s numbers as columns tokens, arm, seconds, memory_mb."""
    rows = {}
    for key, value in result.items():
        what, length, arm, *rest = key.split(".")
        if not rest:
            rows.setdefault((int(length[1:]), arm), {})[what] = value
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["tokens", "arm"])
    table = table.reset_index()
    names = table["arm"].replace({"ours": "perceiver_16x1"}).str.replace("_", " ")
    return table.assign(arm=names)
