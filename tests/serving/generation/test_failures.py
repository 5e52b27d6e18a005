"""Answers when the model fails, and when clients leave: the others get theirs."""

import asyncio
import threading
from collections import Counter

import pytest
import torch
from generation_requests import FakeMedia, collect, metric, picture, refusal, request

from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.decoding import CausalBatch


def test_failing_step_fails_its_rows_alone(make_engine, serve, monkeypatch):
    advance, failing = CausalBatch.advance, Counter()

    def fail_once(self, tokens):
        failing["calls"] += 1
        if failing["calls"] == 5:
            raise RuntimeError("out of memory at 0x7f00")
        advance(self, tokens)

    async def use(engine):
        monkeypatch.setattr(CausalBatch, "advance", fail_once)
        stream = await engine.submit(request("no?"))
        with pytest.raises(ApiError) as caught:
            await stream.collect()
        return caught.value, await collect(engine, request("no?"))

    error, [result] = serve(make_engine(), use)
    assert (error.status, error.message) == (500, "the model failed")
    assert result.completion_tokens == 12


def test_failing_prompt_leaves_running_answers(make_engine, serve, monkeypatch, vlm):
    query = request("where?", max_tokens=100)

    async def use(engine):
        stream = aiter(await engine.submit(query))
        texts = [(await anext(stream)).text]
        monkeypatch.setattr(vlm, "embed_soft_tokens", lambda *_: 1 / 0)
        failed = await engine.submit(request("no?"))
        with pytest.raises(ApiError) as caught:
            await failed.collect()
        monkeypatch.undo()
        texts += [delta.text async for delta in stream]
        return caught.value, "".join(texts), await collect(engine, query)

    error, text, [expected] = serve(make_engine(), use)
    assert (error.status, text) == (500, expected.text)


def test_failing_check_of_an_item_fails_its_request(make_engine, serve, vlm, monkeypatch):
    """On a GPU, errors of the encoder come up there."""

    def fail(tensor):
        raise torch.OutOfMemoryError

    async def use(engine):
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "isfinite", fail)
            pair = [refusal(engine, request("what?", [picture(n)])) for n in range(2)]
            errors = await asyncio.wait_for(asyncio.gather(*pair), 10)
        return errors, await collect(engine, request("what?", [picture(0)]))

    errors, [result] = serve(make_engine(max_wait_ms=500), use)
    message = "the model failed on this item"
    assert [(error.status, error.message) for error in errors] == [(500, message)] * 2
    assert result.text == vlm.generate("what?", picture(0))


# --- clients that leave ----------------------------------------------------------------------


class GatedMedia(FakeMedia):
    """A picture whose decoding waits for an event."""

    gate: threading.Event

    def decode(self):
        assert self.gate.wait(20)
        return super().decode()


async def leave(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def test_client_that_leaves_while_its_picture_is_decoded_disturbs_nobody(
    make_engine, serve, vlm, monkeypatch
):
    monkeypatch.setattr(GatedMedia, "gate", threading.Event(), raising=False)
    media = GatedMedia("image", picture(1))

    async def use(engine):
        leaving, staying = (
            asyncio.create_task(collect(engine, request("what?", [media]))) for _ in range(2)
        )
        while metric(engine, "prefix_cache_total", result="miss") != 2:
            await asyncio.sleep(0.001)
        await leave([leaving])
        GatedMedia.gate.set()
        [result] = await staying
        return result, engine.backlog

    result, backlog = serve(make_engine(), use)
    assert result.text == vlm.generate("what?", picture(1))
    assert (media.decoded, backlog) == (1, 0)


def test_pictures_of_clients_that_left_are_not_decoded(make_engine, serve, monkeypatch):
    monkeypatch.setattr(GatedMedia, "gate", threading.Event(), raising=False)
    media = [GatedMedia("image", picture(n)) for n in range(20)]

    async def use(engine):
        leaving = [asyncio.create_task(engine.submit(request("what?", [m]))) for m in media]
        while engine._worker.arrivals.count < len(media):
            await asyncio.sleep(0.001)
        await leave(leaving)
        GatedMedia.gate.set()
        [result] = await collect(engine, request("what?", [FakeMedia("image", picture(99))]))
        return result

    assert serve(make_engine(), use).text
    assert sum(item.decoded for item in media) <= 2  # those that had begun, in as many threads


def test_pictures_of_a_refused_request_are_not_decoded(make_engine, serve, monkeypatch):
    monkeypatch.setattr(GatedMedia, "gate", threading.Event(), raising=False)
    damaged = FakeMedia("image", ApiError(400, "damaged", "invalid_image"))
    media = [GatedMedia("image", picture(n)) for n in range(10)]

    async def use(engine):
        error = await refusal(engine, request("what?", [damaged, *media]))
        GatedMedia.gate.set()
        await collect(engine, request("what?", [FakeMedia("image", picture(99))]))
        return error

    assert serve(make_engine(), use).message == "damaged"
    assert sum(item.decoded for item in media) <= 2  # those that had begun, in as many threads


def test_picture_of_a_client_that_left_is_decoded_for_others(make_engine, serve, vlm, monkeypatch):
    monkeypatch.setattr(GatedMedia, "gate", threading.Event(), raising=False)

    async def use(engine):
        query = request("what?", [GatedMedia("image", picture(1))])
        leaving = asyncio.create_task(engine.submit(query))
        while not engine._worker.arrivals.count:
            await asyncio.sleep(0.001)
        leaving.cancel()
        staying = asyncio.create_task(collect(engine, query))
        await asyncio.wait([leaving])
        GatedMedia.gate.set()
        return await staying

    [result] = serve(make_engine(), use)
    assert result.text == vlm.generate("what?", picture(1))


def test_pictures_that_wait_are_no_requests(make_engine, serve, aligner, monkeypatch):
    encode, gate = aligner.encode_prepared, threading.Event()
    media = [FakeMedia("image", picture(n)) for n in range(3)]

    def wait(modality, inputs):
        assert gate.wait(20)
        return encode(modality, inputs)

    async def use(engine):
        monkeypatch.setattr(aligner, "encode_prepared", wait)
        waiting = asyncio.create_task(collect(engine, request("what?", media)))
        while engine._worker.arrivals.count or not all(item.decoded for item in media):
            await asyncio.sleep(0.001)
        backlog = engine.backlog
        gate.set()
        await waiting
        return backlog

    assert serve(make_engine(), use) == 1


def test_client_that_leaves_while_its_picture_is_encoded_disturbs_nobody(
    make_engine, serve, vlm, aligner, monkeypatch
):
    encode, begun, gate = aligner.encode_prepared, threading.Event(), threading.Event()

    def wait(modality, inputs):
        begun.set()
        assert gate.wait(20)
        return encode(modality, inputs)

    async def use(engine):
        monkeypatch.setattr(aligner, "encode_prepared", wait)
        leaving, staying = (
            asyncio.create_task(collect(engine, request("what?", [picture(n)]))) for n in (1, 2)
        )
        await asyncio.to_thread(begun.wait, 20)
        await leave([leaving])
        gate.set()
        return await asyncio.wait_for(staying, 20)

    [result] = serve(make_engine(max_wait_ms=500), use)
    monkeypatch.undo()
    assert result.text == vlm.generate("what?", picture(2))
