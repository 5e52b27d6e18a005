"""Parts of a service without a model: answers that can be predicted."""

import asyncio
from dataclasses import dataclass

import numpy as np

from edge_lib.serving.app import create_app
from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import Delta, Stream
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.service import Service
from edge_lib.serving.settings import ServeSettings

LOCAL = "http://localhost"


class FakeGenerator:
    """Answers with words of the request, one a step; `requests` and `streams` keep what came.

    gate: an event that the answers wait for. error: what `submit` raises. delays: of its returns,
    the last first.
    """

    accepts = frozenset({"image", "audio"})
    multi_turn = True

    def __init__(self, words=("a", " red", " three"), error=None, delay=0.0):
        self.words, self.error, self.delay = words, error, delay
        self.requests, self.streams, self.tasks, self.gate = [], [], set(), None
        self.started = self.stopped = False
        self.delays = []

    async def submit(self, request):
        if self.error:
            raise self.error
        await asyncio.sleep(self.delays.pop() if self.delays else 0)
        for items in request.media.values():
            for item in items:
                await asyncio.to_thread(item.decode)
        self.requests.append(request)
        stream = Stream(prompt_tokens=7)
        self.streams.append(stream)
        task = asyncio.create_task(self._answer(stream, request.sampling))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return stream

    async def _answer(self, stream, sampling):
        if self.gate:
            await self.gate.wait()
        limit = sampling.max_tokens or len(self.words)
        for word in self.words[:limit]:
            await asyncio.sleep(self.delay)
            if stream.cancelled:
                return
            stream.send(Delta(word, 1))
        stream.send(Delta("", 0, "length" if limit < len(self.words) else "stop"))

    def start(self):
        self.started = True

    async def stop(self):
        self.stopped = True
        await asyncio.gather(*self.tasks)


class FakeEmbedder:
    """Embeds a text as its length and a picture as its mean colour, in four dims."""

    modalities, dims = ("text", "vision", "audio"), [2, 4]
    started = stopped = False

    async def embed(self, modality, items, param=None):
        if modality != "text":
            items = [item.decode() for item in items]
        elif blank := [n for n, item in enumerate(items) if not item.strip()]:
            raise ApiError(400, "empty", "invalid_text", f"{param}.{blank[0]}")
        return np.array([self._vector(modality, item) for item in items], np.float32)

    async def count_tokens(self, texts):
        return sum(len(text.split()) for text in texts)

    def _vector(self, modality, item):
        if modality == "text":
            return [len(item), 1, 2, 3]
        return [*np.asarray(item, float).reshape(-1, 3).mean(0), 1]

    def start(self):
        self.started = True

    async def stop(self):
        self.stopped = True


@dataclass
class FakeHit:
    row: int
    score: float
    id: str
    text: str | None
    modality: str
    has_picture: bool


class FakeIndex:
    """Three rows, found in their order."""

    def __init__(self):
        self.dims, self.modalities, self.queries = [2, 4], ("vision",), []

    def __len__(self):
        return 3

    def search(self, vector, k, dim, modality=None, center=None):
        self.queries.append((vector, k, dim, modality, center))
        return [FakeHit(n, 1 - n / 10, f"row-{n}", None, "vision", n == 0) for n in range(3)][:k]

    def picture(self, row):
        return b"\xff\xd8\xff" if row == 0 else None


def fake_service(settings=None, **parts):
    """A service of fakes; None leaves a part out."""
    settings = settings or ServeSettings()
    defaults = {"generator": FakeGenerator(), "embedder": FakeEmbedder(), "index": FakeIndex()}
    return Service("tiny", settings, Metrics(), **defaults | parts)


def app_of(service=None, load=None, **settings):
    settings = ServeSettings(**settings)
    service = service or fake_service(settings)
    return create_app(load or (lambda: service), settings, service.metrics)
