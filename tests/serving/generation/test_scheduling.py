"""Who is served when: budgets, full queues, and requests that are cancelled."""

import asyncio
import threading

import pytest
from generation_requests import (
    FakeMedia,
    begun,
    collect,
    metric,
    picture,
    refusal,
    request,
)

from edge_lib.serving.generation.decoding import CausalBatch


@pytest.fixture
def batches(monkeypatch):
    """What was done to batches: ("join", tokens of the prompts) or ("advance", rows), in order."""
    events, join, advance = [], CausalBatch.join, CausalBatch.advance

    def record_join(self, prompts):
        events.append(("join", [len(prompt.ids) for prompt in prompts]))
        join(self, prompts)

    def record_advance(self, tokens):
        events.append(("advance", len(tokens)))
        advance(self, tokens)

    monkeypatch.setattr(CausalBatch, "join", record_join)
    monkeypatch.setattr(CausalBatch, "advance", record_advance)
    return events


def joined(batches):
    """Tokens of the prompts that joined together, after the engine's warm-up."""
    return [value for name, value in batches if name == "join"][1:]


def advanced(batches):
    return [value for name, value in batches if name == "advance"][1:]


# --- budgets ---------------------------------------------------------------------------------


def test_batch_has_at_most_max_batch_rows(make_engine, serve, batches):
    async def use(engine):
        stream, _ = await begun(engine)
        results = await collect(engine, *[request("no?", max_tokens=9)] * 5)
        stream.cancel()
        return results

    results = serve(make_engine(max_batch=3), use)
    assert max(advanced(batches)) == 3
    assert sum(map(len, joined(batches))) == 6
    assert len(set(results)) == 1


def test_prompts_are_processed_together_up_to_max_batch_tokens(make_engine, serve, batches, vlm):
    short, long = (request(text, max_tokens=9) for text in ("no?", "no? " * 40))

    async def use(engine):
        return await collect(engine, short, short, long, short, short)

    def length(query):
        return len(vlm.chat.prompt([{"role": "user", "content": query.messages}]))

    results = serve(make_engine(max_batch_tokens=2 * length(short), max_wait_ms=1000), use)
    assert sorted(map(len, joined(batches))) == [1, 2, 2]
    assert [length(long)] in joined(batches)  # alone, although it is over the limit
    assert len({results[n] for n in (0, 1, 3, 4)}) == 1


def test_requests_that_come_together_start_together(make_engine, serve, batches):
    """An idle server waits for those that are being prepared, and no longer."""

    async def use(engine):
        queries = [request("what is it?", [picture(n)], max_tokens=2) for n in range(6)]
        await asyncio.gather(*(collect(engine, one) for one in queries))

    serve(make_engine(max_wait_ms=20_000), use)
    assert max(map(len, joined(batches))) > 1


def test_default_length_is_bounded_by_the_server(make_engine, serve):
    [result] = serve(make_engine(max_tokens=5), lambda engine: collect(engine, request("no?")))
    assert (result.completion_tokens, result.finish_reason) == (5, "length")


# --- queue -----------------------------------------------------------------------------------


def test_full_queue_refuses_requests_until_there_is_room(make_engine, serve, monkeypatch):
    advance, gate = CausalBatch.advance, threading.Event()

    def wait(self, tokens):
        assert gate.wait(20)
        advance(self, tokens)

    async def use(engine):
        monkeypatch.setattr(CausalBatch, "advance", wait)
        first, _ = await begun(engine)
        waiting = [await engine.submit(request("no?", max_tokens=2)) for _ in range(2)]
        backlog, error = engine.backlog, await refusal(engine, request("no?"))
        queue = metric(engine, "queue", queue="generate")
        first.cancel()
        gate.set()
        results = [await stream.collect() for stream in waiting]
        return backlog, queue, error, results, await collect(engine, request("no?", max_tokens=2))

    backlog, queue, error, results, after = serve(make_engine(max_batch=1, max_queue=2), use)
    assert (backlog, queue) == (2, 2.0)
    assert (error.status, error.code, error.retry_after) == (429, "queue_full", 1)
    assert results == after * 2


def test_stopping_engine_finishes_what_was_begun(make_engine, serve):
    async def use(engine):
        media = FakeMedia("image", picture(1))
        running = [await engine.submit(request("no?", max_tokens=40)) for _ in range(3)]
        preparing = asyncio.create_task(engine.submit(request("what?", [media], max_tokens=40)))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        error = await refusal(engine, request("no?"))
        await stopping
        return error, [await stream.collect() for stream in [*running, await preparing]]

    engine = make_engine(max_batch=1)

    async def main():
        engine.start()
        return await use(engine)

    error, results = asyncio.run(asyncio.wait_for(main(), 60))
    assert (error.status, error.code) == (503, "stopping")
    assert [result.completion_tokens for result in results] == [40] * 4


# --- clients that leave ----------------------------------------------------------------------


def test_cancelled_request_leaves_the_batch(make_engine, serve, batches):
    async def use(engine):
        stream, deltas = await begun(engine)
        other, _ = await begun(engine, max_tokens=60)
        stream.cancel()
        steps = len(advanced(batches))
        rest = [delta async for delta in deltas]
        await other.collect()
        return rest, steps

    rest, steps = serve(make_engine(), use)
    assert not rest or rest[-1].finish_reason is None
    assert advanced(batches)[-1] == 1
    assert advanced(batches)[steps:].count(2) <= 2  # those under way


def test_cancelled_request_does_not_join(make_engine, serve, batches):
    async def use(engine):
        first, _ = await begun(engine)
        waiting, third = [await engine.submit(request("no?", max_tokens=3)) for _ in range(2)]
        waiting.cancel()
        first.cancel()
        return await waiting.collect(), await third.collect()

    cancelled, third = serve(make_engine(max_batch=1), use)
    assert (cancelled.text, cancelled.finish_reason, cancelled.completion_tokens) == ("", None, 0)
    assert third.completion_tokens == 3
    assert len(joined(batches)) == 2


# --- metrics ---------------------------------------------------------------------------------


def test_metrics_count_tokens_and_batches(make_engine, serve):
    async def use(engine):
        return await collect(engine, *[request("no?", [picture(1)], max_tokens=n) for n in (3, 5)])

    engine = make_engine()
    results = serve(engine, use)
    assert metric(engine, "generated_tokens_total") == 8
    assert metric(engine, "prompt_tokens_total") == sum(r.prompt_tokens for r in results)
    assert metric(engine, "first_token_seconds_count") == 2
    assert metric(engine, "batch_rows_sum", queue="generate") == 8
    assert metric(engine, "prefix_cache_bytes") > 0
