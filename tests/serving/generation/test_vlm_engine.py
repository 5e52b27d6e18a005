"""The engine of a VLM: answers as `VLM.generate` gives them, alone and in batches."""

import asyncio

import pytest
from generation_requests import clip, picture, request

PROMPTS = [
    "what is it?",
    "<image>\nwhere is the red three in the image ? yes no",
    "where?",
    "a red three <image> and two <image> what is it?",
    "<audio>\n<image>\nyes?",
    [
        {"role": "user", "content": "<image>\nwhat?"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "where is it ?"},
    ],
]
ITEMS = [
    ([picture(1)], []),
    ([picture(2)], []),
    ([], []),
    ([picture(1), picture(3)], []),
    ([picture(4)], [clip(1)]),
    ([picture(5)], []),
]


def requests(**sampling):
    return [request(p, *i, **sampling) for p, i in zip(PROMPTS, ITEMS, strict=True)]


@pytest.fixture(scope="module")
def expected(vlm):
    """The answers of `VLM.generate` to each prompt alone."""
    return [
        vlm.generate(prompt, images or None, clips or None)
        for prompt, (images, clips) in zip(PROMPTS, ITEMS, strict=True)
    ]


async def collect(engine, *requests):
    streams = [await engine.submit(own) for own in requests]
    return await asyncio.gather(*(stream.collect() for stream in streams))


def test_answers_equal_those_of_generate(make_engine, serve, expected):
    """Alone, and all in a batch."""
    assert len(set(expected)) == len(expected)

    async def alone(engine):
        return [(await collect(engine, own))[0] for own in requests()]

    single = serve(make_engine(), alone)
    assert [answer.text for answer in single] == expected
    assert serve(make_engine(), lambda engine: collect(engine, *requests())) == single
