"""A server of small JPEGs on 127.0.0.1, in a process of its own, for the `download` benchmark.

It answers a request after `latency` seconds. The JPEGs are of 64 random images; a comment with the
number of the URL makes the bytes of each one differ.
"""

import asyncio
import io
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from multiprocessing.connection import Connection

import numpy as np
from PIL import Image

SIDE, IMAGES = 256, 64
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"
)


@contextmanager
def picture_server(latency: float, keep_alive: bool) -> Iterator[str]:
    """The address of a running server: pictures are at /NUMBER.jpg."""
    spawn = multiprocessing.get_context("spawn")
    ports, child = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_run, args=(child, latency, keep_alive), daemon=True)
    process.start()
    child.close()
    try:
        yield f"http://127.0.0.1:{ports.recv()}"
    finally:
        process.kill()
        process.join()


def first_request(address: str) -> float:
    """The time of the first request for a picture since this was last called."""
    connection = HTTPConnection(address.removeprefix("http://"))
    connection.request("GET", "/first")
    return json.load(connection.getresponse())


def make_jpegs() -> list[bytes]:
    """IMAGES files of about 25 kB: coarse colours under fine noise."""
    rng = np.random.default_rng(0)
    return [_jpeg(rng) for _ in range(IMAGES)]


def _jpeg(rng: np.random.Generator) -> bytes:
    colours = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    smooth = np.asarray(colours.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    pixels = (smooth + rng.normal(0, 9, (SIDE, SIDE, 1))).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def _run(ports: Connection, latency: float, keep_alive: bool) -> None:
    asyncio.run(_serve(ports, latency, keep_alive))


async def _serve(ports: Connection, latency: float, keep_alive: bool) -> None:
    pictures = _Pictures(latency, keep_alive)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Answers(pictures), "127.0.0.1", 0, backlog=4096)
    ports.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _Pictures:
    """What all connections share."""

    def __init__(self, latency: float, keep_alive: bool):
        self.jpegs, self.latency, self.keep_alive = make_jpegs(), latency, keep_alive
        self.first: float | None = None  # the time of the first request

    def response(self, number: int, keep: bool) -> list[bytes]:
        jpeg, comment = self.jpegs[number % IMAGES], b"\xff\xfe\x00\x0c%010d" % number
        head = HEAD % (len(jpeg) + len(comment), b"keep-alive" if keep else b"close")
        return [head, jpeg[:2], comment, jpeg[2:]]

    def take_first(self) -> bytes:
        body, self.first = json.dumps(self.first).encode(), None
        return HEAD % (len(body), b"close") + body


class _Answers(asyncio.Protocol):
    """A connection. Requests have no body and are not pipelined."""

    def __init__(self, pictures: _Pictures):
        self.pictures, self.received = pictures, b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.received.endswith(b"\r\n\r\n"):
            return
        request, self.received = self.received.lower(), b""
        name = request.split(b" ", 2)[1].removeprefix(b"/").removesuffix(b".jpg")
        if name == b"first":
            self._answer([self.pictures.take_first()], False)
            return
        self.pictures.first = self.pictures.first or time.time()
        keep = self.pictures.keep_alive and b"connection: close" not in request
        response = self.pictures.response(int(name), keep)
        asyncio.get_running_loop().call_later(self.pictures.latency, self._answer, response, keep)

    def _answer(self, response: list[bytes], keep: bool) -> None:
        self.transport.writelines(response)
        if not keep:
            self.transport.close()
