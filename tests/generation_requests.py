"""Requests to generating engines, and the items in them."""

import asyncio
import hashlib

import numpy as np
import pytest
from PIL import Image

from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import GenerationRequest, Sampling

LONG = 400  # tokens: enough for other requests to come while an answer is generated


class FakeMedia:
    """A picture or clip without bytes. decoded: how often it was decoded."""

    def __init__(self, kind, item, param=None):
        self.kind, self.item, self.param, self.decoded = kind, item, param, 0
        self.key = hashlib.sha256(np.asarray(item).tobytes()).hexdigest()

    def decode(self):
        self.decoded += 1
        if isinstance(self.item, Exception):
            raise self.item
        return self.item


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def clip(seed):
    return np.random.default_rng(seed).normal(0, 0.1, 8000).astype(np.float32)


def request(messages="what is it?", images=(), audio=(), media=None, **sampling):
    """A GenerationRequest of pictures and clips, or of `media`."""
    media = media or {
        "image": [i if isinstance(i, FakeMedia) else FakeMedia("image", i) for i in images],
        "audio": [a if isinstance(a, FakeMedia) else FakeMedia("audio", a) for a in audio],
    }
    return GenerationRequest(messages, media, Sampling(**sampling))


async def answer(engine, own):
    return await (await engine.submit(own)).collect()


async def answers(engine, *requests):
    return await asyncio.gather(*(answer(engine, own) for own in requests))


async def each_alone(engine, *requests):
    return [await answer(engine, own) for own in requests]


async def collect(engine, *requests):
    streams = [await engine.submit(own) for own in requests]
    return await asyncio.gather(*(stream.collect() for stream in streams))


async def refusal(engine, own):
    """The error that a request gets."""
    with pytest.raises(ApiError) as caught:
        await engine.submit(own)
    return caught.value


async def begun(engine, **sampling):
    """A long answer that has begun."""
    stream = await engine.submit(request("where?", **{"max_tokens": LONG} | sampling))
    deltas = aiter(stream)
    await anext(deltas)
    return stream, deltas


def metric(engine, name, **labels):
    return engine.metrics.registry.get_sample_value(f"edge_glass_{name}", labels)
