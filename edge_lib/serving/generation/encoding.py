"""Soft tokens of what clients send: from the cache, or decoded and encoded once."""

import asyncio
from collections.abc import Callable
from typing import Any

from edge_lib.data.unusable import UnusableItem
from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.prefix_cache import PrefixCache, SoftTokens
from edge_lib.serving.generation.rows import EncodeJob
from edge_lib.serving.generation.worker import Worker
from edge_lib.serving.media import Media, in_thread
from edge_lib.serving.metrics import Metrics


class PrefixEncoder:
    """Used in the event loop. prepare: a kind and a decoded item -> a small input of the model."""

    def __init__(
        self,
        prepare: Callable[[str, Any], Any],
        worker: Worker,
        cache: PrefixCache,
        metrics: Metrics,
    ):
        self._prepare, self._worker, self._cache, self._metrics = prepare, worker, cache, metrics
        self._running: dict[tuple, asyncio.Task] = {}

    @property
    def idle(self) -> bool:
        return not self._running

    async def encode(self, key: tuple[str, ...], item: tuple[Media, ...]) -> SoftTokens:
        """Of an item, which is a pair if an image and a clip are fused. key: its placeholder, and
        the keys of the media. ApiError if it cannot be used.
        """
        soft = self._cache.get(key)
        self._metrics.prefix_cache.labels("miss" if soft is None else "hit").inc()
        # shielded: others may wait for the same item when a client leaves
        return soft or await asyncio.shield(self._task(key, item))

    def _task(self, key: tuple, item: tuple[Media, ...]) -> asyncio.Task:
        """What encodes an item, once for all that wait for it."""
        if key not in self._running:
            self._running[key] = task = asyncio.create_task(self._encode(key, item))
            task.add_done_callback(lambda task: self._end(key, task))
        return self._running[key]

    def _end(self, key: tuple, task: asyncio.Task) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # otherwise asyncio complains if all clients have left

    async def _encode(self, key: tuple, item: tuple[Media, ...]) -> SoftTokens:
        with self._worker.arrivals:
            prepared = [await in_thread(self._decode, media) for media in item]
        result = asyncio.get_running_loop().create_future()
        self._worker.put(EncodeJob(key[0], tuple(prepared), result))
        soft = await result
        self._cache.put(key, soft)
        self._metrics.prefix_cache_bytes.set(self._cache.nbytes)
        return soft

    def _decode(self, media: Media) -> Any:
        """In a thread: what is left of a large picture is small."""
        try:
            return self._prepare(media.kind, media.decode())
        except ApiError:
            raise
        except Exception as error:  # processors raise nearly anything
            reason = str(error) if isinstance(error, UnusableItem) else "the model cannot read it"
            message = f"the {media.kind} cannot be used: {reason}"
            raise ApiError(400, message, f"invalid_{media.kind}") from None
