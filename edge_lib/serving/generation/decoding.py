"""A batch of prompts that a language model continues together, and that rows join and leave.

Prompts are padded on the left. Rows that join are processed by themselves first; then the shorter
of both caches is padded on the left and they become one. When rows leave, columns that are padding
in all others are dropped.
"""

from collections.abc import Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from edge_lib.models.vlm import VLM
from edge_lib.nn.decoders.language import pad_left
from edge_lib.serving.generation.rows import Prompt


class CausalBatch:
    """Rows of a VLM. logits (B, V): of each row's next token."""

    def __init__(self, vlm: VLM):
        self.vlm = vlm
        self.clear()
        cache = DynamicCache(config=vlm.language.config)
        # others, such as sliding windows and recurrent states, have no columns to pad
        self._joinable = all(type(layer) is DynamicLayer for layer in cache.layers)

    @property
    def open(self) -> bool:
        """Whether rows can join now."""
        return self._joinable or self.logits is None

    def clear(self) -> None:
        """Drop all rows."""
        self.logits: Tensor | None = None
        self._mask: Tensor | None = None  # (B, S) False on padding
        self._cache: DynamicCache | None = None

    def join(self, prompts: Sequence[Prompt]) -> None:
        """Process prompts, as the last rows of the batch."""
        ids, mask = pad_left([prompt.ids for prompt in prompts], self.vlm.chat.pad)
        device = self.vlm.device
        soft = _stack(prompts)
        embedded, mask = self.vlm.embed_soft_tokens(ids.to(device), mask.to(device), soft)
        cache = DynamicCache(config=self.vlm.language.config)
        logits = self._next_logits(**self.vlm.language_inputs(embedded, mask, cache))
        if self.logits is not None:
            logits = torch.cat([self.logits, logits])
            for before, layer in zip(self._cache.layers, cache.layers, strict=True):
                layer.keys = torch.cat(_pad_to_longest([before.keys, layer.keys], 2))
                layer.values = torch.cat(_pad_to_longest([before.values, layer.values], 2))
            mask = torch.cat(_pad_to_longest([self._mask, mask], 1))
        self.logits, self._cache, self._mask = logits, cache, mask

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, by number."""
        if not rows:
            return self.clear()
        if len(rows) < len(self.logits):
            index = torch.tensor(rows)
            self.logits, self._mask = self.logits[index], self._mask[index]
            self._cache.reorder_cache(index)  # which drops rows too, and has all kinds of layers
            self._trim()

    def advance(self, tokens: Sequence[int]) -> None:
        """Process the next token of each row."""
        ids = torch.tensor(tokens, device=self.vlm.device)[:, None]
        positions = self._mask.sum(1, keepdim=True)
        self._mask = F.pad(self._mask, (0, 1), value=True)
        inputs = {"input_ids": ids, "attention_mask": self._mask, "position_ids": positions}
        self.logits = self._next_logits(**inputs, past_key_values=self._cache, use_cache=True)

    def _next_logits(self, **inputs) -> Tensor:
        """(B, V) after the last column."""
        return self.vlm.language(**inputs, logits_to_keep=1).logits[:, -1]

    def _trim(self) -> None:
        padding = int(self._mask.any(0).int().argmax())
        if not (padding and self._joinable):
            return
        self._mask = self._mask[:, padding:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[:, :, padding:], layer.values[:, :, padding:]


def _stack(prompts: Sequence[Prompt]) -> dict[str, tuple[Tensor, Tensor]]:
    """Soft tokens (N, T, W) and mask (N, T) of all prompts' items, by placeholder."""
    names = dict.fromkeys(name for prompt in prompts for name in prompt.soft)
    items = {n: list(chain.from_iterable(p.soft.get(n, ()) for p in prompts)) for n in names}
    return {
        name: (torch.stack([s.tokens for s in soft]), torch.stack([s.mask for s in soft]))
        for name, soft in items.items()
        if soft
    }


def _pad_to_longest(tensors: Sequence[Tensor], dim: int) -> list[Tensor]:
    """Zeros, or False, in front along a dimension, so that all are equally long."""
    length = max(x.shape[dim] for x in tensors)
    return [F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (length - x.shape[dim], 0)) for x in tensors]
