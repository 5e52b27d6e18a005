"""A request to a generating model, and its answer as it comes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from edge_lib.serving.errors import ApiError
from edge_lib.serving.media import Media

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; greedily by default. max_tokens: None is the model's own default."""

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """A conversation to continue.

    messages: a prompt, which gets the placeholders that it lacks in front; or {"role", "content"},
        with a text in which placeholders stand for items, or a list of parts: {"type": "text",
        "text": ...}, whose placeholders are text, {"type": "image"} and {"type": "audio"}.
    media: items of each kind, in the order of their placeholders.
    """

    messages: str | Sequence[dict[str, Any]]
    media: dict[str, list[Media]] = field(default_factory=dict)
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Delta:
    """A piece of an answer. tokens: generated for it; the last piece has a finish_reason."""

    text: str
    tokens: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int


class Stream:
    """The answer to one request, piece by piece."""

    def __init__(self, prompt_tokens: int):
        self.prompt_tokens, self.cancelled = prompt_tokens, False
        self._events: asyncio.Queue[Delta | ApiError | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Raises ApiError if the model fails."""
        while event := await self._events.get():
            if isinstance(event, ApiError):
                raise event
            yield event
            if event.finish_reason:
                return

    async def collect(self) -> Answer:
        """All pieces together."""
        deltas = [delta async for delta in self]
        text, tokens = "".join(d.text for d in deltas), sum(d.tokens for d in deltas)
        reason = deltas[-1].finish_reason if deltas else None
        return Answer(text, reason, self.prompt_tokens, tokens)

    def cancel(self) -> None:
        """End the answer: it leaves the batch at the next step."""
        self.cancelled = True
        self.send(None)

    def send(self, event: Delta | ApiError | None) -> None:
        """Add a piece, or an error; called in the event loop."""
        self._events.put_nowait(event)


class Generator(Protocol):
    """A model that generates for many clients."""

    accepts: frozenset[str]  # kinds of media: of image, audio
    multi_turn: bool  # whether a conversation may have several turns

    async def submit(self, request: GenerationRequest) -> Stream:
        """Begin an answer. ApiError 400 for a prompt or item that cannot be used, 429 if too many
        wait, 503 while stopping.
        """

    def start(self) -> None:
        """Called in the event loop."""

    async def stop(self) -> None:
        """Refuse new requests, and finish what was begun."""
