"""Soft tokens of what clients send: from the cache, or decoded and encoded once."""

import asyncio
from collections.abc import Callable

from edge_lib.serving.generation.prefix_cache import PrefixCache, SoftTokens
from edge_lib.serving.generation.worker import Arrivals, EncodeJob
from edge_lib.serving.media import Media, in_thread
from edge_lib.serving.metrics import Metrics

MAX_DECODED = 8  # items in memory that wait to be encoded; a picture may take 60 MB


class PrefixEncoder:
    """Used in the event loop. put: hands a job to the model's thread."""

    def __init__(
        self,
        put: Callable[[EncodeJob], None],
        arrivals: Arrivals,
        cache: PrefixCache,
        metrics: Metrics,
    ):
        self._put, self._arrivals, self._cache, self._metrics = put, arrivals, cache, metrics
        self._slots = asyncio.Semaphore(MAX_DECODED)
        self._running: dict[tuple, asyncio.Task] = {}

    @property
    def idle(self) -> bool:
        return not self._running

    async def encode(self, name: str, item: tuple[Media, ...]) -> SoftTokens:
        """Of an item for a placeholder; it is a pair if an image and a clip are fused. ApiError if
        it cannot be used.
        """
        with self._arrivals:
            keys = [await asyncio.to_thread(getattr, media, "key") for media in item]
        key = (name, *keys)
        soft = self._cache.get(key)
        self._metrics.prefix_cache.labels("miss" if soft is None else "hit").inc()
        # shielded: others may wait for the same item when a client leaves
        return soft or await asyncio.shield(self._task(key, item))

    def _task(self, key: tuple, item: tuple[Media, ...]) -> asyncio.Task:
        """What encodes an item, once for all that wait for it."""
        if key not in self._running:
            self._running[key] = task = asyncio.create_task(self._produce(key, item))
            task.add_done_callback(lambda task: self._end(key, task))
        return self._running[key]

    def _end(self, key: tuple, task: asyncio.Task) -> None:
        del self._running[key]
        task.cancelled() or task.exception()  # it is known, even if all clients left

    async def _produce(self, key: tuple, item: tuple[Media, ...]) -> SoftTokens:
        async with self._slots:
            with self._arrivals:
                decoded = [await in_thread(media.decode) for media in item]
            job = EncodeJob(key[0], tuple(decoded), asyncio.get_running_loop().create_future())
            self._put(job)
            soft = await job.result
        self._cache.put(key, soft)
        self._metrics.prefix_cache_bytes.set(self._cache.nbytes)
        return soft
