"""Embeddings for many clients: batches, limits, and clients that leave."""

import asyncio
import threading

import numpy as np
import pytest
from image_helpers import to_file
from PIL import Image

from edge_lib.data.unusable import UnusableItem
from edge_lib.serving.embedding import EmbedQueue
from edge_lib.serving.errors import ApiError
from edge_lib.serving.media import Media
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings


class LengthEmbedder:
    """Embeds a text as its length; `batches` keeps what it was given. gate: what each batch waits
    for.
    """

    modalities, dims, model_sha256 = ("text", "vision"), [1, 2], "5" * 64

    def __init__(self):
        self.batches, self.gate, self.calls = [], threading.Event(), 0
        self.gate.set()

    def prepare(self, modality, item):
        if item == "long":
            raise UnusableItem("longer than what the model reads")
        if item == "odd":
            raise KeyError("processor")
        return item

    def embed(self, modality, inputs):
        self.calls += 1
        assert self.gate.wait(10)
        self.batches.append((modality, list(inputs)))
        if any(item == "broken" or getattr(item, "width", 0) == 13 for item in inputs):
            raise RuntimeError("of the model")
        sizes = [len(x) if modality == "text" else x.width for x in inputs]
        rows = np.array([[size, 1] for size in sizes], np.float32)
        rows[[x == "infinite" for x in inputs]] = np.inf
        return rows


def run(test, embedder=None, **settings):
    """The result of `test(queue)`, on a running queue."""

    async def main():
        settings_ = ServeSettings(**settings)
        queue = EmbedQueue(embedder or LengthEmbedder(), settings_, metrics)
        queue.start()
        try:
            return await test(queue)
        finally:
            await queue.stop()

    metrics = Metrics()
    return asyncio.run(main())


def picture(width):
    return Media("image", to_file(Image.new("RGB", (width, 8)), "PNG"), param=f"images.{width}")


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_queue_answers_each_request_in_its_order():
    async def test(queue):
        texts = [["a" * n, "b" * (n + 1)] for n in range(1, 20)]
        rows = await asyncio.gather(*(queue.embed("text", text) for text in texts))
        assert [row[:, 0].tolist() for row in rows] == [[n, n + 1] for n in range(1, 20)]

    run(test)


def test_queue_makes_batches_of_a_modality():
    embedder = LengthEmbedder()

    async def test(queue):
        embedder.gate.clear()
        requests = [asyncio.create_task(queue.embed("text", ["first"]))]
        await until(lambda: embedder.calls == 1)
        requests += [
            asyncio.create_task(queue.embed("vision", [picture(8), picture(9)])),
            *(asyncio.create_task(queue.embed("text", [f"text {n}"])) for n in range(5)),
        ]
        # texts are prepared on the model's thread, which waits
        await until(lambda: len(queue._jobs) >= 2)
        embedder.gate.set()
        await asyncio.gather(*requests)

    run(test, embedder, max_batch=3)
    first, second, *others = embedder.batches
    assert first == ("text", ["first"])
    assert (second[0], len(second[1])) == ("vision", 2)
    assert {modality for modality, _ in others} == {"text"}
    assert max(len(inputs) for _, inputs in others) <= 3
    assert sum(len(inputs) for _, inputs in others) == 5


def test_queue_starts_at_once_when_it_is_idle():
    embedder = LengthEmbedder()

    async def test(queue):
        for n in range(3):
            await queue.embed("text", ["x" * (n + 1)])

    run(test, embedder)
    assert [len(inputs) for _, inputs in embedder.batches] == [1, 1, 1]


def refusal(queue, *args):
    async def test():
        with pytest.raises(ApiError) as info:
            await queue.embed(*args)
        return info.value

    return test()


def test_queue_refuses_what_is_over_its_limit():
    embedder = LengthEmbedder()

    async def test(queue):
        embedder.gate.clear()
        waiting = asyncio.create_task(queue.embed("text", ["a"] * 3))
        await until(lambda: queue._items == 3)
        error = await refusal(queue, "text", ["a"] * 2)
        assert (error.status, error.code, error.retry_after) == (429, "queue_full", 1)
        last = asyncio.create_task(queue.embed("text", ["bb"]))  # fills it
        embedder.gate.set()
        assert (await waiting)[:, 0].tolist() == [1, 1, 1]
        assert (await last)[0, 0] == 2
        assert len(await queue.embed("text", ["a"] * 4)) == 4  # all have left

    run(test, embedder, max_queue=4)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (" ", "the text cannot be used: it is empty"),
        ("x" * 100_001, "the text cannot be used: over 100,000 characters"),
        ("\ud800", "the text cannot be used: it holds half of a character"),
        ("long", "the text cannot be used: longer than what the model reads"),
        ("odd", "the text cannot be used: the model cannot read it"),
    ],
    ids=range(5),
)
def test_queue_names_the_text_that_cannot_be_used(item, message):
    async def test(queue):
        error = await refusal(queue, "text", ["fine", item], "texts")
        assert (error.status, error.message) == (400, message)
        assert (error.code, error.param) == ("invalid_text", "texts.1")
        assert (await queue.embed("text", ["fine"]))[0, 0] == 4  # nothing is left behind
        assert queue._items == 0

    run(test)


def test_queue_names_the_picture_that_cannot_be_used():
    async def test(queue):
        broken = Media("image", b"GIF89a", param="1.images.3")
        error = await refusal(queue, "vision", [picture(8), broken])
        assert (error.status, error.code, error.param) == (400, "invalid_image", "1.images.3")

    run(test)


def test_queue_refuses_a_modality_that_the_model_lacks():
    async def test(queue):
        error = await refusal(queue, "audio", [])
        assert (error.status, error.message) == (400, "the model embeds text and vision, not audio")

    run(test)


def test_queue_refuses_embeddings_that_are_not_finite():
    async def test(queue):
        error = await refusal(queue, "text", ["infinite"])
        assert (error.status, error.code) == (400, "invalid_item")

    run(test)


def test_queue_lives_on_after_an_error_of_the_model():
    async def test(queue):
        with pytest.raises(RuntimeError, match="of the model"):
            await queue.embed("text", ["broken"])
        assert (await queue.embed("text", ["fine"]))[0, 0] == 4

    run(test)


def test_item_that_fails_in_the_model_fails_its_request_alone():
    embedder = LengthEmbedder()

    async def test(queue):
        embedder.gate.clear()
        results = [asyncio.create_task(queue.embed("vision", [picture(8)]))]
        await until(lambda: embedder.calls == 1)
        results += [asyncio.create_task(queue.embed("vision", [picture(n)])) for n in (9, 13, 11)]
        await until(lambda: len(queue._jobs) == 3)
        embedder.gate.set()
        return await asyncio.gather(*results, return_exceptions=True)

    first, fine, error, well = run(test, embedder)
    assert [row[0, 0] for row in (first, fine, well)] == [8, 9, 11]
    assert str(error) == "of the model"


def test_gauge_counts_the_items_that_wait():
    embedder, metrics = LengthEmbedder(), Metrics()

    def waiting():
        return metrics.registry.get_sample_value("edge_glass_queue", {"queue": "embed"})

    async def test():
        queue = EmbedQueue(embedder, ServeSettings(), metrics)
        queue.start()
        embedder.gate.clear()
        first = asyncio.create_task(queue.embed("vision", [picture(8)]))
        await until(lambda: embedder.calls == 1)
        rest = [asyncio.create_task(queue.embed("vision", [picture(n)])) for n in (9, 10, 11)]
        await until(lambda: waiting() == 3)
        rest[0].cancel()
        await until(lambda: waiting() == 2)
        embedder.gate.set()
        await asyncio.gather(first, *rest[1:])
        await queue.stop()
        return waiting()

    assert asyncio.run(asyncio.wait_for(test(), 20)) == 0


def test_queue_drops_items_of_a_client_that_left():
    embedder = LengthEmbedder()

    async def test(queue):
        embedder.gate.clear()
        first = asyncio.create_task(queue.embed("text", ["first"]))
        await until(lambda: embedder.calls == 1)
        gone = asyncio.create_task(queue.embed("vision", [picture(8)]))
        stays = asyncio.create_task(queue.embed("vision", [picture(9)]))
        await until(lambda: len(queue._jobs) == 2)
        gone.cancel()
        await asyncio.wait([gone])
        embedder.gate.set()
        assert (await stays)[0, 0] == 9
        await first
        assert queue._items == 0

    run(test, embedder)
    assert [len(inputs) for _, inputs in embedder.batches] == [1, 1]


def test_queue_finishes_what_runs_when_it_stops():
    embedder = LengthEmbedder()

    async def test(queue):
        embedder.gate.clear()
        tasks = [asyncio.create_task(queue.embed("text", ["x" * n])) for n in (1, 2)]
        await until(lambda: queue._items == 2)
        stopping = asyncio.create_task(queue.stop())
        await asyncio.sleep(0)
        error = await refusal(queue, "text", ["late"])
        assert (error.status, error.code) == (503, "stopping")
        embedder.gate.set()
        await stopping
        assert [(await task)[0, 0] for task in tasks] == [1, 2]

    run(test, embedder)


def test_queue_that_has_ended_counts_no_tokens():
    async def test(queue):
        await queue.stop()
        with pytest.raises(ApiError, match="stopping") as info:
            await queue.count_tokens(["a"])
        return info.value.status

    assert run(test) == 503
