"""Items of prompts: encoded once, kept, and refused with their place."""

import asyncio

import numpy as np
import pytest
import torch
from generation_requests import FakeMedia, clip, collect, metric, picture, refusal, request

from edge_lib.serving.errors import ApiError


@pytest.fixture
def encoded(aligner, monkeypatch):
    """How many items the model encoded in each call, after the engine was made."""
    counts, encode_prepared = [], aligner.encode_prepared

    def record(modality, inputs):
        counts.append(len(inputs))
        return encode_prepared(modality, inputs)

    monkeypatch.setattr(aligner, "encode_prepared", record)
    return counts


def test_item_that_was_seen_is_neither_decoded_nor_encoded_again(make_engine, serve, encoded, vlm):
    first, again, sound = (
        FakeMedia("image", picture(1)),
        FakeMedia("image", picture(1)),
        FakeMedia("audio", clip(1)),
    )

    async def use(engine):
        encoded.clear()
        one = await collect(engine, request("what is it?", [first], [sound]))
        two = await collect(engine, request("where?", [again]), request("no?", [again, again]))
        return one + two, metric(engine, "prefix_cache_total", result="hit")

    results, hits = serve(make_engine(), use)
    assert sum(encoded) == 2
    assert (first.decoded, again.decoded, sound.decoded, hits) == (1, 0, 1, 3)
    expected = vlm.generate("what is it?", picture(1), clip(1)), vlm.generate("where?", picture(1))
    assert [result.text for result in results[:2]] == [*expected]


def test_item_of_several_requests_at_once_is_encoded_once(make_engine, serve, encoded):
    media = [FakeMedia("image", picture(1)) for _ in range(6)]

    async def use(engine):
        encoded.clear()
        others = (collect(engine, request("what is it?", [item])) for item in media)
        return await asyncio.gather(*others)

    results = serve(make_engine(), use)
    assert sum(encoded) == 1
    assert sum(item.decoded for item in media) == 1
    assert len({result.text for [result] in results}) == 1


def test_items_are_encoded_again_without_a_cache(make_engine, serve, encoded):
    media = FakeMedia("image", picture(1))

    async def use(engine):
        encoded.clear()
        return [await collect(engine, request("what is it?", [media])) for _ in range(2)]

    one, two = serve(make_engine(prefix_cache_mb=0), use)
    assert one == two
    assert (sum(encoded), media.decoded) == (2, 2)


def test_damaged_item_is_refused_with_its_place(make_engine, serve):
    """Others at the same time are answered; a second try decodes it again."""
    bad = FakeMedia("image", ApiError(400, "damaged", "invalid_image", "elsewhere"))

    async def use(engine):
        good = collect(engine, request("what?", [picture(1)]))
        pair = request("what?", [FakeMedia("image", picture(2)), bad])
        errors = await asyncio.gather(refusal(engine, pair), refusal(engine, pair))
        bad.param = "3.images.1"
        return await good, [*errors, await refusal(engine, pair)]

    [good], errors = serve(make_engine(), use)
    assert good.text
    assert {(error.status, error.code, error.message) for error in errors} == {
        (400, "invalid_image", "damaged")
    }
    assert [error.param for error in errors] == ["images.1", "images.1", "3.images.1"]
    assert bad.decoded >= 2


def failing_for(function, is_bad, error):
    """The function, but raising an error for bad inputs."""

    def call(modality, inputs):
        if is_bad(inputs):
            raise error
        return function(modality, inputs)

    return call


@pytest.mark.parametrize("place", ["prepare", "encode_prepared"])
def test_item_that_fails_in_the_model_fails_its_request_alone(
    make_engine, serve, vlm, aligner, monkeypatch, place
):
    """Whether it fails before it is encoded, or with the items that are encoded with it."""
    odd, white = picture(2), aligner.prepare("vision", picture(2))["pixel_values"]

    def is_bad(inputs):
        if place == "prepare":
            return inputs is odd
        return any(torch.equal(item["pixel_values"], white) for item in inputs)

    async def use(engine):
        failing = failing_for(getattr(aligner, place), is_bad, RuntimeError("at 0x7f00"))
        monkeypatch.setattr(aligner, place, failing)
        others = (collect(engine, request("what?", [picture(n)])) for n in range(3, 6))
        error, *results = await asyncio.gather(refusal(engine, request("what?", [odd])), *others)
        return error, results

    error, results = serve(make_engine(max_wait_ms=500), use)
    if place == "prepare":
        message = "the image cannot be used: the model cannot read it"
        assert (error.status, error.code, error.message) == (400, "invalid_image", message)
    else:
        assert (error.status, error.message) == (500, "the model failed on this item")
    assert error.param == "images.0"
    assert [answer.text for [answer] in results] == [
        vlm.generate("what?", picture(n)) for n in range(3, 6)
    ]


def test_item_without_finite_soft_tokens_is_refused(make_engine, serve, vlm, monkeypatch):
    soft_tokens = vlm.soft_tokens

    def not_finite(name, features):
        tokens, mask = soft_tokens(name, features)
        return tokens.masked_fill(tokens == tokens.max(), torch.inf), mask

    async def use(engine):
        monkeypatch.setattr(vlm, "soft_tokens", not_finite)
        error = await refusal(engine, request("what?", [picture(1)]))
        monkeypatch.undo()
        return error, await collect(engine, request("what?", [picture(1)]))

    error, [result] = serve(make_engine(), use)
    message = "the item gives no finite soft tokens"
    assert (error.status, error.message, error.param) == (400, message, "images.0")
    assert result.text == vlm.generate("what?", picture(1))


def test_clip_longer_than_the_model_reads_is_refused(make_engine, serve, vlm):
    """It would be cut in silence."""
    window = vlm.prefix_sources.aligner.encoder("audio").window
    whole, longer = (np.full(length, 0.1, np.float32) for length in (window, window + 1))

    async def use(engine):
        error = await refusal(engine, request("what?", audio=[longer]))
        return error, await collect(engine, request("what?", audio=[whole]))

    error, [result] = serve(make_engine(), use)
    assert (error.status, error.code, error.param) == (400, "invalid_audio", "audio.0")
    assert error.message == "the audio cannot be used: longer than the 2 s that the model reads"
    assert result.text == vlm.generate("what?", None, whole)
