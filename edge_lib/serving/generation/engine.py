"""The base of generating engines: requests are checked and prepared in the event loop and threads
beside it, and answered by the model's thread.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from edge_lib.data.messages import PLACEHOLDERS, ChatError, TooLong, as_literal
from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.encoding import PrefixEncoder
from edge_lib.serving.generation.prefix_cache import PrefixCache, SoftTokens
from edge_lib.serving.generation.request import GenerationRequest, Stream
from edge_lib.serving.generation.rows import Batch, Prompt, Row
from edge_lib.serving.generation.sampling import RowSampler
from edge_lib.serving.generation.text_stream import TextStream
from edge_lib.serving.generation.worker import Worker
from edge_lib.serving.media import Media
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings
from edge_lib.serving.tasks import gather

FIELDS = {"image": "images", "audio": "audio"}  # of /generate, by placeholder
Messages = str | Sequence[dict[str, Any]]  # as in `GenerationRequest`


class Engine:
    """A `Generator`. Subclasses say how a model is run.

    batch: the model's rows. ends: tokens that end an answer. max_tokens: of an answer, by default.
    max_positions: of a prompt and its answer together. max_characters: of a prompt; longer ones are
    not tokenised.
    """

    accepts: frozenset[str]
    multi_turn: bool

    def __init__(
        self,
        batch: Batch,
        ends: frozenset[int],
        max_tokens: int,
        max_positions: int,
        max_characters: int,
        settings: ServeSettings,
        metrics: Metrics,
    ):
        self.settings, self.metrics = settings, metrics
        self.max_tokens = min(max_tokens, settings.max_tokens)
        self.max_positions = max_positions
        self.max_characters = max_characters
        self._worker = Worker(batch, self.encode, ends, settings, metrics)
        cache = PrefixCache(settings.prefix_cache_mb * 2**20)
        self._encoder = PrefixEncoder(self.prepare, self._worker, cache, metrics)
        self._preparing, self._stopping = 0, False
        metrics.queue.labels("generate").set_function(lambda: self.backlog)

    def tokenize(self, messages: Messages, counts: dict[str, int]) -> list[int]:
        """Token ids of a prompt with so many items for each placeholder. Called in a thread;
        ChatError for a prompt that cannot be used.
        """
        raise NotImplementedError

    def prepare(self, kind: str, item: Any) -> Any:
        """A decoded item -> a small input of the model. Called in a thread; UnusableItem."""
        raise NotImplementedError

    def encode(self, name: str, items: list[tuple]) -> list[SoftTokens]:
        """Of prepared items for a placeholder. Called in the model's thread."""
        raise NotImplementedError

    def decode(self, ids: list[int]) -> str:
        """The text of tokens. Called in the model's thread."""
        raise NotImplementedError

    def group(self, media: dict[str, list[Media]]) -> dict[str, list[tuple[Media, ...]]]:
        """The items for each placeholder."""
        return {name: [(item,) for item in items] for name, items in media.items() if items}

    @property
    def backlog(self) -> int:
        """The number of requests that wait or are prepared."""
        return self._preparing + self._worker.backlog

    async def submit(self, request: GenerationRequest) -> Stream:
        if self._stopping:
            raise ApiError(503, "the server is stopping", "stopping", retry_after=5)
        if self.backlog >= self.settings.max_queue:
            raise ApiError(429, "too many requests wait", "queue_full", retry_after=1)
        self._preparing += 1
        try:
            row = await self._row(request)
        finally:
            self._preparing -= 1
        self._worker.put(row)
        return row.stream

    def start(self) -> None:
        self._worker.start(asyncio.get_running_loop())

    async def stop(self) -> None:
        self._stopping = True
        while self._preparing or not self._encoder.idle:
            await asyncio.sleep(0.01)
        self._worker.put(None)
        await asyncio.to_thread(self._worker.join)

    async def _row(self, request: GenerationRequest) -> Row:
        began, sampling = time.monotonic(), request.sampling
        prompt = await self._prompt(request)
        left = max(1, self.max_positions - len(prompt.ids))
        return Row(
            prompt=prompt,
            stream=Stream(len(prompt.ids)),
            max_tokens=min(sampling.max_tokens or self.max_tokens, left),
            sampler=RowSampler(sampling),
            text=TextStream(self.decode, sampling.stop),
            began=began,
        )

    async def _prompt(self, request: GenerationRequest) -> Prompt:
        for kind, items in request.media.items():
            if items and kind not in self.accepts:
                raise ApiError(400, f"the model takes no {kind}", "unsupported_media")
        try:
            items = self.group(request.media)
            counts = {name: len(group) for name, group in items.items()}
            with self._worker.arrivals:
                ids, keys = await asyncio.to_thread(self._read, request.messages, counts, items)
            self._check_length(len(ids), self.settings.max_prompt_tokens, "tokens")
        except ChatError as error:
            code = "context_length_exceeded" if isinstance(error, TooLong) else "invalid_prompt"
            raise ApiError(400, str(error), code) from None
        encode = (self._encode_all(keys[name], group) for name, group in items.items())
        return Prompt(ids, dict(zip(items, await gather(encode), strict=True)))

    def _read(
        self, messages: Messages, counts: dict[str, int], items: dict
    ) -> tuple[list[int], dict[str, list[tuple]]]:
        """In a thread: the token ids of a prompt, and the keys of its items."""
        self._check_length(_characters(messages), self.max_characters, "characters")
        keys = {
            name: [(name, *(media.key for media in item)) for item in group]
            for name, group in items.items()
        }
        return self.tokenize(messages, counts), keys

    @staticmethod
    def _check_length(length: int, limit: int | None, unit: str) -> None:
        if limit and length > limit:
            raise TooLong(f"a prompt of {length:,} {unit}, over {limit:,}")

    async def _encode_all(self, keys: list[tuple], items: list[tuple]) -> list[SoftTokens]:
        pairs = enumerate(zip(keys, items, strict=True))
        return await gather(self._encode_item(number, *pair) for number, pair in pairs)

    async def _encode_item(self, number: int, key: tuple, item: tuple[Media, ...]) -> SoftTokens:
        try:
            return await self._encoder.encode(key, item)
        except ApiError as error:  # perhaps of another request with the same item
            media = next((m for m in item if error.code == f"invalid_{m.kind}"), item[0])
            raise error.at(media.param or f"{FIELDS[key[0]]}.{number}") from None


def prompt_texts(messages: Messages, kinds: Sequence[str]) -> Messages:
    """Messages whose contents are texts; placeholders for parts of these kinds."""
    if isinstance(messages, str):
        return messages
    return [{**message, "content": _text(message["content"], kinds)} for message in messages]


def _characters(content: Messages | dict) -> int:
    """In all texts of messages, of their contents, and of the parts of these; one more for each
    message and part.
    """
    if isinstance(content, str):
        return len(content)
    if isinstance(content, dict):
        return 1 + _characters(content.get("content") or content.get("text", ""))
    return sum(map(_characters, content))


def _text(content: str | list[dict], kinds: Sequence[str]) -> str:
    if isinstance(content, str):
        return content
    texts = (
        as_literal(part["text"]) if part["type"] == "text" else PLACEHOLDERS[part["type"]]
        for part in content
        if part["type"] in ("text", *kinds)
    )
    return "\n".join(texts)
