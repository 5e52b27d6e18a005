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
        self.truncated = torch.zeros(self.size, dtype=torch.bool)

    def truncate(self, items: list[int]) -> None:
        self.truncated[[item - self.start for item in items]] = True

    def add(
        self, items: list[int], output: EncoderOutput, keeps_tokens: bool
    ) -> dict[int, Skipped]:
        """Outputs of items, by number. Returns those that have values which cannot be stored."""
        skipped = {}
        for number, item in enumerate(items):
            tokens = output.tokens[number][output.mask[number]] if keeps_tokens else None
            if problem := self._add(item - self.start, output.pooled[number], tokens):
                skipped[item] = problem
        return skipped

    def _add(self, row: int, pooled: Tensor, tokens: Tensor | None) -> Skipped | None:
        stored = {"pooled": pooled.to(self.dtype)}
        if tokens is not None and self.token_dtype == torch.int8:
            stored["tokens"], stored["scales"] = quantize(tokens)
        elif tokens is not None:
            stored["tokens"] = tokens.to(self.token_dtype)
        if all(part.isfinite().all() for part in stored.values()):
            for name, part in stored.items():
                getattr(self, name)[row] = part
            return None
        finite = pooled.isfinite().all() and (tokens is None or tokens.isfinite().all())
        return OVERFLOW if finite else NOT_FINITE

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
        for name, parts in (("tokens", self.tokens), ("scales", self.scales)):
            if parts:
                data[name] = torch.cat([parts[row] for row in sorted(parts)])
        return data
