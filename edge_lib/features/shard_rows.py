"""The content of a shard while its items are encoded."""

from itertools import accumulate

import torch
from torch import Tensor

from edge_lib.config import FeaturesConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.skipped import Skipped
from edge_lib.features.tokens import quantize

NOT_FINITE = Skipped("the encoder's output is not finite")
OVERFLOW = Skipped("features are too large for float16; use features.dtype=float32")


class ShardRows:
    """Outputs for the items start, ..., stop - 1, in the types in which they are stored."""

    def __init__(self, start: int, stop: int, config: FeaturesConfig):
        self.start, self.size, self.config = start, stop - start, config
        self.dtype = getattr(torch, config.dtype)
        self.token_dtype = getattr(torch, config.tokens.dtype or config.dtype)
        self.pooled: dict[int, Tensor] = {}  # by row of the shard, like all of these
        self.tokens: dict[int, Tensor] = {}
        self.scales: dict[int, Tensor] = {}
        self.positions: Tensor | None = None  # of the tokens of every item
        self.truncated = torch.zeros(self.size, dtype=torch.bool)

    def truncate(self, items: list[int]) -> None:
        self.truncated[[item - self.start for item in items]] = True

    def add(self, items: list[int], output: EncoderOutput) -> dict[int, Skipped]:
        """Outputs of items, by number, on any device; tokens are kept unless they are None. Returns
        the items that have values which cannot be stored.
        """
        stored, self.positions = self._stored(output), output.positions
        fits = _finite(stored, output.mask)
        problems = {} if fits.all() else _problems(items, fits, output.finite())
        parts = {name: part.cpu() for name, part in stored.items()}
        mask = None if output.mask is None else output.mask.cpu()
        for number, item in enumerate(items):
            if item not in problems:
                self.pooled[item - self.start] = parts["pooled"][number]
                for name in parts.keys() - {"pooled"}:
                    getattr(self, name)[item - self.start] = parts[name][number][mask[number]]
        return problems

    def _stored(self, output: EncoderOutput) -> dict[str, Tensor]:
        """Pooled (B, P), tokens (B, T, D) and scales (B, T), as far as they are kept."""
        stored = {"pooled": output.pooled.to(self.dtype)}
        if output.tokens is None:
            return stored
        if self.token_dtype != torch.int8:
            return stored | {"tokens": output.tokens.to(self.token_dtype)}
        tokens, scales = quantize(output.tokens)
        return stored | {"tokens": tokens, "scales": scales}

    @property
    def token_bytes_per_item(self) -> float:
        parts = [*self.tokens.values(), *self.scales.values()]
        return sum(part.nbytes for part in parts) / max(1, len(self.tokens))

    def tensors(self) -> dict[str, Tensor]:
        """The shard's tensors, as `shards.py` describes them."""
        rows = range(self.size)
        lengths = [len(self.tokens.get(row, ())) for row in rows]
        data = {
            "valid": torch.tensor([row in self.pooled for row in rows]),
            "truncated": self.truncated,
            "offsets": torch.tensor([0, *accumulate(lengths)]),
        }
        if self.pooled:
            zeros = torch.zeros_like(next(iter(self.pooled.values())))
            data["pooled"] = torch.stack([self.pooled.get(row, zeros) for row in rows])
        if self.positions is not None:
            data["positions"] = self.positions.cpu()
        for name, parts in (("tokens", self.tokens), ("scales", self.scales)):
            if parts:
                data[name] = torch.cat([parts[row] for row in sorted(parts)])
        return data


def _finite(stored: dict[str, Tensor], mask: Tensor | None) -> Tensor:
    """(B,) bool: whether all values of an item can be stored."""
    tokens = stored.get("scales", stored.get("tokens"))  # int8 is finite, its scale may not be
    if tokens is not None and tokens.ndim == 2:
        tokens = tokens[..., None]
    return EncoderOutput(tokens, mask, stored["pooled"]).finite()


def _problems(items: list[int], fits: Tensor, finite: Tensor) -> dict[int, Skipped]:
    """Items that do not fit, because of the encoder or of the type in which they are stored."""
    rows = zip(items, fits.tolist(), finite.tolist(), strict=True)
    return {item: OVERFLOW if fine else NOT_FINITE for item, fit, fine in rows if not fit}
