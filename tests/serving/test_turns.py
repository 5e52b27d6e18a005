"""One client's pictures do not keep all decoding threads from the others."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
from serving.fakes import fake_service
from serving.live import live_server

from edge_lib.serving import media
from edge_lib.serving.media import in_thread, take_turns
from edge_lib.serving.schemas.examples import PICTURE


def test_items_of_a_request_leave_a_thread_to_others():
    """Five items of one request wait for the end of the item of another."""
    gate, order = threading.Event(), []

    def decode(name):
        if name != "other":
            assert gate.wait(10)
        order.append(name)

    async def request(*names):
        take_turns()
        await asyncio.gather(*(in_thread(decode, name) for name in names))

    async def run():
        many = asyncio.create_task(request(*"abcde"))
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.create_task(request("other")), 5)
        gate.set()
        await many

    asyncio.run(run())
    assert order == ["other", *"abcde"]


def test_requests_take_turns(monkeypatch):
    """A request with many pictures leaves a decoding thread to others."""
    started, gate, decode = threading.Event(), threading.Event(), media.media_from_uri

    def slow(kind, uri, *rest):
        if "slow" in uri:
            started.set()
            assert gate.wait(30)
        return decode(kind, uri.replace("slow", "png"), *rest)

    monkeypatch.setattr(media, "media_from_uri", slow)
    with live_server(fake_service()) as url, ThreadPoolExecutor(1) as pool:
        body = {"prompt": "x", "images": [PICTURE.replace("png", "slow")] * 8}
        many = pool.submit(httpx.post, f"{url}/generate", json=body, timeout=60)
        assert started.wait(30)
        one = httpx.post(f"{url}/generate", json={"prompt": "x", "images": PICTURE}, timeout=20)
        assert (one.status_code, many.done()) == (200, False)
        gate.set()
        assert many.result().status_code == 200
