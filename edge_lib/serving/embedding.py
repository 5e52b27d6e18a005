"""Embeddings of what clients send, in batches of a modality, on one thread."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edge_lib.data.unicode import is_unicode
from edge_lib.data.unusable import UnusableItem
from edge_lib.serving.errors import ApiError, unusable
from edge_lib.serving.media import Media, in_thread
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings

if TYPE_CHECKING:
    from edge_lib.models import Aligner

MAX_TEXT = 100_000  # characters; models read far fewer, and tokenizers slow down
Item = str | Media


class Embedder(Protocol):
    """What a queue embeds with. modalities: of "vision", "audio", "text". model_sha256: of
    `models.saving.model_digest`, None if it is not known.
    """

    modalities: tuple[str, ...]
    dims: list[int]
    model_sha256: str | None

    def prepare(self, modality: str, item: Any) -> Any:
        """A text, or a decoded picture or clip -> a small input of the model. UnusableItem if it is
        longer than what the model reads. Pictures and clips are prepared in several threads.
        """

    def count_tokens(self, texts: list[str]) -> int:
        """As the model reads them, with those around a text."""

    def embed(self, modality: str, inputs: list) -> np.ndarray:
        """Prepared inputs -> (N, D) float32, of which the first d columns are those of dim d."""


class TorchEmbedder:
    """A trained aligner, also one inside another model."""

    def __init__(self, aligner: "Aligner"):
        from edge_lib.models.saving import model_digest

        aligner.check_pooled("the server")
        self._aligner = aligner.eval()
        self.modalities, self.dims = tuple(aligner.modalities), sorted(aligner.dims)
        self.model_sha256 = model_digest(aligner.source) if aligner.source else None
        for name in self.modalities:
            aligner.encoder(name)  # loads it

    def prepare(self, modality: str, item: Any) -> Any:
        if modality != "text":
            return self._aligner.prepare(modality, item)
        if (encoder := self._aligner.encoder("text")).truncates(item):
            raise UnusableItem(f"longer than {encoder.limit}")
        return item

    def count_tokens(self, texts: list[str]) -> int:
        return int(self._aligner.encoder("text").prepare(texts)["attention_mask"].sum())

    def embed(self, modality: str, inputs: list) -> np.ndarray:
        import torch

        aligner = self._aligner
        if modality == "text":
            inputs = [aligner.encoder("text").prepare(inputs)]
        with torch.inference_mode():
            output = aligner.encode_prepared(modality, inputs)
            return aligner.heads[modality](output)[1].float().cpu().numpy()


@dataclass(eq=False)
class _Job:
    modality: str
    inputs: Any
    row: asyncio.Future  # (D,)


class EmbedQueue:
    """Embeds the items of all requests. While one batch is embedded, the next one gathers."""

    def __init__(self, embedder: Embedder, settings: ServeSettings, metrics: Metrics):
        self._embedder, self._settings, self._metrics = embedder, settings, metrics
        self.modalities, self.dims = embedder.modalities, embedder.dims
        self.model_sha256 = embedder.model_sha256
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._changed = asyncio.Event()
        self._jobs: list[_Job] = []
        self._items, self._stopping = 0, False
        metrics.queue.labels("embed").set_function(lambda: len(self._waiting()))

    def start(self) -> None:
        """In the event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Take no more items, and finish those under way."""
        self._stopping = True
        self._changed.set()
        await self._task
        self._thread.shutdown()

    async def embed(
        self, modality: str, items: Sequence[Item], param: str | None = None
    ) -> np.ndarray:
        """(N, D) float32, not normalised. ApiError 400 for an item that cannot be used, 429 when
        the queue is full. param: place of texts in the request; media have their own.
        """
        self._check(modality, len(items))
        self._items += len(items)
        try:
            rows = await self._embed(modality, await self._prepare(modality, items, param))
        finally:
            self._items -= len(items)
            self._changed.set()
        if errors := [row for row in rows if isinstance(row, BaseException)]:
            raise errors[0]
        if not np.isfinite(rows).all():
            raise ApiError(400, f"an item of {modality} gives no finite embedding", "invalid_item")
        return np.stack(rows)

    async def count_tokens(self, texts: list[str]) -> int:
        """Of texts that were embedded."""
        self._refuse_if(self._task.done())
        return await self._call(self._embedder.count_tokens, texts)

    @staticmethod
    def _refuse_if(stopping: bool) -> None:
        if stopping:
            raise ApiError(503, "the server is stopping", "stopping", retry_after=5)

    def _check(self, modality: str, count: int) -> None:
        self._refuse_if(self._stopping)
        if modality not in self.modalities:
            allowed = " and ".join(self.modalities)
            raise ApiError(400, f"the model embeds {allowed}, not {modality}", "not_supported")
        if self._items + count > self._settings.max_queue:
            raise ApiError(429, "too many items are waiting", "queue_full", retry_after=1)

    async def _prepare(self, modality: str, items: Sequence[Item], param: str | None) -> list:
        """Inputs of the model. Texts on its thread, as tokenizers are not thread-safe."""
        if modality == "text":
            return await self._call(self._decode, modality, items, param)
        return [await in_thread(self._decode_item, modality, item) for item in items]

    async def _call(self, function: Callable, *args: Any) -> Any:
        """On the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _decode(self, modality: str, items: Sequence[Item], param: str | None) -> list:
        places = (f"{param}.{n}" if param else None for n in range(len(items)))
        return [self._decode_item(modality, *pair) for pair in zip(items, places, strict=True)]

    def _decode_item(self, modality: str, item: Item, place: str | None = None) -> Any:
        try:
            decoded = _checked(item) if isinstance(item, str) else item.decode()
            return self._embedder.prepare(modality, decoded)
        except ApiError:
            raise
        except UnusableItem as error:
            reason = str(error)
        except Exception:  # processors raise nearly anything
            reason = "the model cannot read it"
        kind, place = getattr(item, "kind", "text"), getattr(item, "param", place)
        raise unusable(kind, reason, place)

    async def _embed(self, modality: str, inputs: list) -> list[np.ndarray | BaseException]:
        loop = asyncio.get_running_loop()
        jobs = [_Job(modality, item, loop.create_future()) for item in inputs]
        self._jobs += jobs
        self._changed.set()
        # cancels what is left when the client leaves
        return await asyncio.gather(*(job.row for job in jobs), return_exceptions=True)

    async def _run(self) -> None:
        while self._items or not self._stopping:
            await self._changed.wait()
            self._changed.clear()
            while batch := self._next_batch():
                await self._embed_batch(batch)

    def _waiting(self) -> list[_Job]:
        """Those whose clients have not left."""
        return [job for job in self._jobs if not job.row.done()]

    def _next_batch(self) -> list[_Job]:
        """The first job that waits, and others of its modality."""
        jobs = self._waiting()
        batch = [job for job in jobs if job.modality == jobs[0].modality]
        batch = batch[: self._settings.max_batch]
        self._jobs = [job for job in jobs if job not in batch]
        return batch

    async def _embed_batch(self, batch: list[_Job]) -> None:
        """Each job alone if that fails for all together."""
        self._metrics.batch_rows.labels("embed").observe(len(batch))
        inputs = [job.inputs for job in batch]
        try:
            rows = await self._call(self._embedder.embed, batch[0].modality, inputs)
        except Exception as error:  # of the model; raised to the client
            if len(batch) > 1:
                for job in batch:
                    await self._embed_batch([job])
                return
            rows = [error]
        for job, row in zip(batch, rows, strict=True):
            if not job.row.done():
                job.row.set_result(row)


def _checked(text: str) -> str:
    """UnusableItem for a text without content, or over `MAX_TEXT`."""
    if not text.strip():
        raise UnusableItem("it is empty")
    if len(text) > MAX_TEXT:
        raise UnusableItem(f"over {MAX_TEXT:,} characters")
    if not is_unicode(text):
        raise UnusableItem("it holds half of a character")
    return text
