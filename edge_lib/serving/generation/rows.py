"""What the event loop hands to the model's thread: requests, and items to encode."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from edge_lib.serving.generation.prefix_cache import SoftTokens
from edge_lib.serving.generation.request import Delta, Stream
from edge_lib.serving.generation.sampling import RowSampler
from edge_lib.serving.generation.text_stream import TextStream


@dataclass(frozen=True)
class Prompt:
    """Token ids, with as many of each placeholder as it has soft tokens, and the soft tokens of
    the items by placeholder, in order.
    """

    ids: list[int]
    soft: dict[str, list[SoftTokens]] = field(default_factory=dict)


class Batch(Protocol):
    """Rows that a model continues together, such as `CausalBatch`."""

    open: bool
    logits: Tensor | None

    def join(self, prompts: Sequence[Prompt]) -> None: ...
    def keep(self, rows: Sequence[int]) -> None: ...
    def advance(self, tokens: Sequence[int]) -> None: ...
    def clear(self) -> None: ...


@dataclass(eq=False)
class Row:
    """A request, and how far its answer is."""

    prompt: Prompt
    stream: Stream
    max_tokens: int
    sampler: RowSampler
    text: TextStream
    began: float = field(default_factory=time.monotonic)
    count: int = 0  # tokens of the answer
    sent: int = 0  # of these, in pieces that were sent

    def accept(self, token: int, is_end: bool) -> Delta | None:
        """Add a token -> the next piece of the answer, if there is one."""
        self.count += 1
        text = "" if is_end else self.text.push(token)
        reason = "stop" if is_end or self.text.stopped else None
        if not reason and self.count >= self.max_tokens:
            reason = "length"
        if reason:
            text += self.text.finish()
        if not (text or reason):
            return None
        tokens, self.sent = self.count - self.sent, self.count
        return Delta(text, tokens, reason)


@dataclass(eq=False)
class EncodeJob:
    """A prepared item (an image and its clip, if they are fused) for a placeholder."""

    name: str
    item: tuple[Any, ...]
    result: asyncio.Future


class Arrivals:
    """Counts what is being prepared for the model: `with arrivals: ...`, in the event loop."""

    count = 0

    def __enter__(self):
        self.count += 1

    def __exit__(self, *_):
        self.count -= 1
