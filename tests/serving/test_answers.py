"""Requests of several answers: more than the queue holds, and clients that leave early."""

import asyncio
import json
import socket
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
from serving.fakes import FakeGenerator, fake_service
from serving.live import live_server
from serving.waiting import until
from starlette.requests import ClientDisconnect

from edge_lib.serving.routes.dependencies import unless_gone
from edge_lib.serving.schemas.examples import PICTURE
from edge_lib.serving.settings import ServeSettings

USER = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def url():
    with live_server(fake_service(ServeSettings(max_queue=3))) as url:
        yield url


@pytest.mark.parametrize(
    ("path", "allowed", "refused"),
    [
        ("/generate", [{"prompt": "x"}] * 3, [{"prompt": "x", "n": 2}] * 2),
        ("/generate", {"prompt": "x", "n": 3}, {"prompt": "x", "n": 4}),
        ("/caption", [{"image": PICTURE}] * 3, [{"image": PICTURE}] * 4),
        (CHAT, {"messages": USER, "n": 3}, {"messages": USER, "n": 4}),
        ("/embed", {"texts": ["x"] * 3}, {"texts": ["x"] * 2, "images": [PICTURE] * 2}),
        ("/v1/embeddings", {"input": ["x"] * 3}, {"input": ["x"] * 4}),
    ],
    ids=["prompts", "n", "captions", "chat", "embed", "embeddings"],
)
def test_request_of_more_than_the_queue_holds_is_refused(url, path, allowed, refused):
    """Not with 429, as it would never be taken."""
    assert httpx.post(url + path, json=allowed).status_code == 200
    response = httpx.post(url + path, json=refused)
    unit = "items" if "embed" in path else "answers"
    message = f"4 {unit} in a request, over the 3 that can wait"
    assert (response.status_code, response.json()["error"]["message"]) == (400, message)


class SlowGenerator(FakeGenerator):
    """Prepares a request for longer than any client waits."""

    begun = False

    async def submit(self, request):
        self.begun = True
        await asyncio.sleep(60)


@pytest.mark.parametrize("stream", [True, False])
def test_chat_client_that_leaves_during_preparation_is_dropped(stream):
    generator = SlowGenerator()
    content = json.dumps({"messages": USER, "stream": stream}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    with live_server(fake_service(generator=generator)) as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(head.encode() + content)
            until(lambda: generator.begun)
        until(lambda: f'route="{CHAT}",status="499"' in httpx.get(f"{url}/metrics").text)


def test_work_for_a_client_that_left_ends_before_its_request():
    """Otherwise it could add streams that nobody cancels."""
    ended = []

    async def receive():
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def main():
        with pytest.raises(ClientDisconnect):
            await unless_gone(SimpleNamespace(receive=receive), work())
        return list(ended)

    assert asyncio.run(main()) == [True]
