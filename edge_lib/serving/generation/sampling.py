"""The choice of each row's next token, by the settings and noise of the row.

A token is drawn by adding Gumbel noise to the scaled logits and taking the largest, which equals
drawing from their softmax. The noise comes from a generator of the row, so that an answer depends
on its seed and on no other row.
"""

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from edge_lib.serving.generation.request import Sampling

SEEDS = 2**64  # a generator's seeds; others are taken modulo this


class RowSampler:
    """The settings of a row, and its source of noise."""

    def __init__(self, sampling: Sampling):
        self.sampling, seed = sampling, sampling.seed
        self._seed = secrets.randbits(63) if seed is None else seed % SEEDS
        self._generator: torch.Generator | None = None

    def noise(self, scores: Tensor) -> Tensor:
        """Exponential noise of the shape of scores (V,); other noise at each call."""
        if self._generator is None:
            self._generator = torch.Generator(scores.device).manual_seed(self._seed)
        return torch.empty_like(scores).exponential_(generator=self._generator)


def choose_tokens(logits: Tensor, rows: Sequence[RowSampler]) -> list[int]:
    """The next token of each row of logits (B, V): the likeliest at temperature 0, else drawn."""
    tokens = logits.argmax(-1)
    drawn = [number for number, row in enumerate(rows) if row.sampling.temperature > 0]
    if drawn:
        tokens[drawn] = _draw(logits[drawn].float(), [rows[number] for number in drawn])
    return tokens.tolist()


def _draw(logits: Tensor, rows: Sequence[RowSampler]) -> Tensor:
    """(B,) tokens drawn from logits (B, V)."""
    settings = [row.sampling for row in rows]
    temperatures = logits.new_tensor([s.temperature for s in settings])
    # less the largest, so that a tiny temperature gives no inf
    scores = (logits - logits.amax(-1, keepdim=True)) / temperatures[:, None]
    if any(s.top_k or s.top_p < 1 for s in settings):
        scores = scores.masked_fill(scores < _thresholds(scores, settings), -torch.inf)
    noise = torch.stack([row.noise(values) for row, values in zip(rows, scores, strict=True)])
    return (scores - noise.log()).argmax(-1)


def _thresholds(scores: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """(B, 1) the lowest score that top_k, and then top_p among the rest, leave in each row."""
    ordered = scores.sort(descending=True).values
    size = scores.shape[1]
    top_k = scores.new_tensor([min(s.top_k or size, size) for s in settings])[:, None]
    ranks = torch.arange(size, device=scores.device)
    ordered = ordered.masked_fill(ranks >= top_k, -torch.inf)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    top_p = scores.new_tensor([s.top_p for s in settings])[:, None]
    kept = (ranks < top_k) & (before < top_p) | (ranks == 0)
    return ordered.gather(1, kept.sum(1, keepdim=True) - 1)
