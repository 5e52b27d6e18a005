"""Transformer blocks of the decoders: RMSNorm, rotary attention with a cache, SwiGLU; no bias.

Queries and keys are normalised (Henry et al. 2020, arXiv 2010.04245): lookups by content are then
learned sooner. A stack processes a sequence in parts: in every layer, each part also attends to the
keys and values of earlier parts. So a context is processed once and answers continue from it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_lib.nn.norm import RMSNorm

KeysValues = tuple[Tensor, Tensor]  # each (B, H, S, W / H), of one layer


class Stack(nn.Module):
    """Transformer layers over a sequence that is processed in parts."""

    def __init__(self, dim: int, num_layers: int, num_heads: int, norm: str):
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, num_heads, norm) for _ in range(num_layers))
        self.norm = RMSNorm(dim) if norm == "pre" else nn.Identity()
        self.head_width = dim // num_heads

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, earlier: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """Rows x (B, S, W) at positions (B, S), with the keys and values of E earlier rows for each
        layer; mask (B, S, E + S), True = visible -> rows (B, S, W), keys and values of all.
        """
        rotation = rotations(positions, self.head_width, x.dtype)
        x, pairs = _run_layers(self.layers, x, rotation, mask, earlier)
        return self.norm(x), pairs

    def read(
        self, x: Tensor, positions: Tensor, mask: Tensor, earlier: list[KeysValues] | None = None
    ) -> list[KeysValues]:
        """Only the keys and values of `forward`; the rest of the last layer is not computed."""
        rotation = rotations(positions, self.head_width, x.dtype)
        x, pairs = _run_layers(self.layers[:-1], x, rotation, mask, earlier)
        return [*pairs, self.layers[-1].read(x, rotation, earlier and earlier[-1])]


class Layer(nn.Module):
    """Attention, then SwiGLU, each with a residual; normalised before (pre) or after it (post)."""

    def __init__(self, dim: int, num_heads: int, norm: str):
        super().__init__()
        self.num_heads, self.pre = num_heads, norm == "pre"
        # of normalised queries and keys; with 1 and 1, attention is too uniform at first
        self.gains = nn.Parameter(torch.tensor([2.0, 1.0])[:, None].repeat(1, dim // num_heads))
        self.norms = nn.ModuleList(RMSNorm(dim) for _ in range(2))
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.mlp = SwiGLU(dim)
        self.recorded: list[Tensor] | None = None  # set it to a list to record attention weights

    def forward(
        self, x: Tensor, rotation: Tensor, mask: Tensor, earlier: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """As `Stack.forward`, for one layer; mask (B, 1, S, E + S)."""
        q, k, v = self._project(x, rotation, earlier)
        attended = self._attend(q, k, v, mask)
        if self.pre:
            x = x + attended
            return x + self.mlp(self.norms[1](x)), (k, v)
        x = self.norms[0](x + attended)
        return self.norms[1](x + self.mlp(x)), (k, v)

    def read(self, x: Tensor, rotation: Tensor, earlier: KeysValues | None) -> KeysValues:
        """The keys and values of earlier rows and of x (B, S, W)."""
        return self._project(x, rotation, earlier)[1:]

    def _project(self, x, rotation, earlier) -> tuple[Tensor, Tensor, Tensor]:
        x = self.norms[0](x) if self.pre else x
        qkv = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q_and_k = F.rms_norm(qkv[:2], qkv.shape[-1:]) * self.gains[:, None, None, None]
        q, k = rotate(q_and_k, rotation)
        if earlier:
            return q, torch.cat([earlier[0], k], dim=2), torch.cat([earlier[1], qkv[2]], dim=2)
        return q, k, qkv[2]

    def _attend(self, q, k, v, mask) -> Tensor:
        if self.recorded is not None:
            scores = (q @ k.transpose(-1, -2)).float() / q.shape[-1] ** 0.5
            self.recorded.append(scores.masked_fill(~mask, -torch.inf).softmax(-1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


def _run_layers(layers, x, rotation, mask, earlier) -> tuple[Tensor, list[KeysValues]]:
    pairs = []
    for number, layer in enumerate(layers):
        x, pair = layer(x, rotation, mask[:, None], earlier and earlier[number])
        pairs.append(pair)
    return x, pairs


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020) with the parameters of an ungated one of four times its width."""

    def __init__(self, dim: int):
        super().__init__()
        hidden = round(dim * 8 / 3 / 8) * 8
        self.to_gate_and_value = nn.Linear(dim, 2 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        gate, value = self.to_gate_and_value(x).chunk(2, dim=-1)
        return self.to_out(F.silu(gate) * value)


def rotations(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Positions (B, S) -> cosines and sines (2, B, 1, S, width / 2) (RoPE, arXiv 2104.09864)."""
    rates = 10000 ** (-torch.arange(0, width, 2, device=positions.device) / width)
    angles = positions[:, None, :, None] * rates
    return torch.stack([angles.cos(), angles.sin()]).to(dtype)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """(..., B, H, S, W) with column pairs (j, j + W / 2) rotated."""
    (a, b), (cos, sin) = x.chunk(2, dim=-1), rotation
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
