"""Soft tokens of what clients send: from the cache, or decoded and encoded once."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from edge_lib.data.unusable import UnusableItem
from edge_lib.serving.errors import ApiError, unusable
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
        self._clients: Counter[tuple] = Counter()  # that wait for each

    @property
    def idle(self) -> bool:
        return not self._running

    async def encode(self, key: tuple[str, ...], item: tuple[Media, ...]) -> SoftTokens:
        """Of an item, which is a pair if an image and a clip are fused. key: its placeholder, and
        the keys of the media. ApiError if it cannot be used.
        """
        soft = self._cache.get(key)
        self._metrics.prefix_cache.labels("miss" if soft is None else "hit").inc()
        return soft or await self._join(key, item)

    async def _join(self, key: tuple, item: tuple[Media, ...]) -> SoftTokens:
        """Wait for the task that encodes an item, one for all clients. The last that leaves cancels
        it.
        """
        if key not in self._running:
            self._running[key] = asyncio.create_task(self._encode(key, item))
        task = self._running[key]
        self._clients[key] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._clients[key] -= 1
            if not self._clients[key]:
                del self._clients[key], self._running[key]
                task.cancel()

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
            raise unusable(media.kind, reason) from None
