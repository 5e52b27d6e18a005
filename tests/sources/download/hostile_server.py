"""A web server whose answers are what the web has to offer.

`HostileServer` runs in a thread on 127.0.0.1. `ROUTES` says what each path answers, and what is to
become of it: `ROUTES["truncated.jpg"].status == "corrupt_image"`. `picture/N` are different
pictures.
"""

import asyncio
import gzip
import io
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from bombs import jpeg_scans
from PIL import Image

from edge_lib.sources.download import dial

MAX_BYTES = 1_000_000  # the limit that `ROUTES` expects


@dataclass(frozen=True)
class Route:
    """status: of `STATUSES`, with retries; reply: bytes, or a coroutine function of
    (server, writer, number of the request to this path); slow: the server stalls, so that a short
    timeout is due; shape: width and height of a picture.
    """

    status: str
    reply: Any
    shape: tuple[int, int] | None = None
    slow: bool = False


class HostileServer:
    """A context manager. requests: paths in their order; head: of the last one; connections: their
    number in all; most_active: the most requests at a time.
    """

    def __init__(self, host: str = "127.0.0.1", ssl=None):
        self.host, self.requests, self.connections = host, [], 0
        self._ssl, self._loop, self._tasks = ssl, asyncio.new_event_loop(), set()
        self._counts, self._active, self.most_active = Counter(), 0, 0

    def __enter__(self) -> "HostileServer":
        start = asyncio.start_server(self._serve, self.host, 0, ssl=self._ssl)
        self._server = self._loop.run_until_complete(start)
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}/{path}"

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, EOFError, asyncio.CancelledError):  # the client has closed, or the test
            pass
        finally:
            self._tasks.discard(asyncio.current_task())
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _answer(self, reader, writer) -> bool:
        """Whether the connection stays open."""
        self.head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = self.head.split(" ")[1].lstrip("/")
        self.requests.append(path)
        self._counts[path] += 1
        self._active += 1
        self.most_active = max(self.most_active, self._active)
        reply = find_route(path).reply
        try:
            if callable(reply):
                await reply(self, writer, self._counts[path])
            else:
                writer.write(reply)
            await writer.drain()
        finally:
            self._active -= 1
        return callable(reply) and getattr(reply, "keeps", False)


def find_route(path: str) -> Route:
    """Of a path with or without its query."""
    name = path.partition("?")[0]
    if name.startswith("picture/"):
        return Route("ok", kept(reply(picture(int(name.removeprefix("picture/"))))), SHAPE)
    return ROUTES.get(path) or ROUTES.get(name) or ROUTES["404"]


@cache
def pixels(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


@cache
def picture(seed: int = 0, form: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    """A picture of 40 x 30."""
    file = io.BytesIO()
    pixels(seed).convert(mode).save(file, form, **options)
    return file.getvalue()


def animation(form: str) -> bytes:
    file = io.BytesIO()
    pixels(1).save(file, form, save_all=True, append_images=[pixels(2), pixels(3)])
    return file.getvalue()


def turned() -> bytes:
    """A picture of 40 x 30 that is shown as 30 x 40."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(4, exif=exif.tobytes())


def bomb_gif() -> bytes:
    """A few bytes that claim 65,535 x 32,767 pixels."""
    image = picture(0, "GIF", "P")
    return image[:6] + struct.pack("<HH", 65535, 32767) + image[10:]


def strip() -> bytes:
    file = io.BytesIO()
    pixels(0, 500, 1).save(file, "PNG")
    return file.getvalue()


def text_bomb_png() -> bytes:
    """A PNG with a text of 2 MB."""
    data = b"key\0\0" + zlib.compress(bytes(2_000_000))
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data
    image = picture(0, "PNG")
    return image[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + image[33:]


@cache
def gzip_bomb() -> bytes:
    return gzip.compress(bytes(20_000_000))


def reply(body: bytes = b"", status: int = 200, *headers: str, length: int | None = None) -> bytes:
    """A response. length: what the header says, if not the truth; -1 leaves it out."""
    lines = [f"HTTP/1.1 {status} Reason", "Content-Type: image/jpeg", *headers]
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def redirect(location: str, status: int = 302) -> bytes:
    return reply(b"moved", status, f"Location: {location}")


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    parts = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    return reply(b"", 200, "Transfer-Encoding: chunked", length=-1) + b"".join(parts) + end


def kept(content: bytes):
    """The connection stays open after it."""

    async def write(server, writer, count):
        writer.write(content)

    write.keeps = True
    return write


def reset_after(content: bytes):
    async def write(server, writer, count):
        writer.write(content)
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: close sends RST
        writer.transport.abort()

    return write


def stall_after(content: bytes):
    async def write(server, writer, count):
        writer.write(content)
        await asyncio.sleep(3600)

    return write


def answer_after(content: bytes, seconds: float):
    async def write(server, writer, count):
        await asyncio.sleep(seconds)
        writer.write(content)

    return write


def repeat(content: bytes, start: bytes = b"", seconds: float = 0):
    """Without end."""

    async def write(server, writer, count):
        writer.write(start)
        while True:
            writer.write(content)
            await writer.drain()
            await asyncio.sleep(seconds)

    return write


def in_turn(*replies):
    """The first request gets the first; all from the last on get the last."""

    async def write(server, writer, count):
        content = replies[min(count, len(replies)) - 1]
        await content(server, writer, count) if callable(content) else writer.write(content)

    return write


JPEG, SHAPE = picture(), (40, 30)
OK = reply(JPEG)
HTML = b"<!doctype html><title>Photo no longer available</title>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"/>'
PLACEHOLDER = picture(99)
DEFLATE = zlib.compressobj(wbits=-15)
RAW_DEFLATE = DEFLATE.compress(JPEG) + DEFLATE.flush()


def encoded(body: bytes, name: str) -> bytes:
    return reply(body, 200, f"Content-Encoding: {name}")


PICTURES = {
    "picture.jpg": (OK, SHAPE),
    "picture.png": (reply(picture(5, "PNG")), SHAPE),
    "alpha.png": (reply(picture(5, "PNG", "RGBA")), SHAPE),
    "palette.gif": (reply(picture(6, "GIF", "P")), SHAPE),
    "picture.webp": (reply(picture(7, "WEBP")), SHAPE),
    "picture.avif": (reply(picture(8, "AVIF")), SHAPE),
    "cmyk.jpg": (reply(picture(9, mode="CMYK")), SHAPE),
    "grey.jpg": (reply(picture(10, mode="L")), SHAPE),
    "progressive.jpg": (reply(picture(11, progressive=True)), SHAPE),
    "animated.gif": (reply(animation("GIF")), SHAPE),
    "animated.webp": (reply(animation("WEBP")), SHAPE),
    "turned.jpg": (reply(turned()), SHAPE[::-1]),
    "icc-junk.jpg": (reply(picture(12, icc_profile=b"junk" * 99)), SHAPE),
    "exif-junk.jpg": (reply(picture(12, exif=b"Exif\0\0junk" * 9)), SHAPE),
    "png-as-jpeg": (reply(picture(13, "PNG")), SHAPE),
    "placeholder/1": (reply(PLACEHOLDER), SHAPE),
    "placeholder/2": (reply(PLACEHOLDER), SHAPE),
    "chunked": (chunked(JPEG[:100], JPEG[100:]), SHAPE),
    "http-1.0": (b"HTTP/1.0 200 OK\r\n\r\n" + JPEG, SHAPE),
    "no-reason": (OK.replace(b"200 Reason", b"200"), SHAPE),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK, SHAPE),
    "gzip": (encoded(gzip.compress(JPEG), "gzip"), SHAPE),
    "deflate": (encoded(zlib.compress(JPEG), "deflate"), SHAPE),
    "raw-deflate": (encoded(RAW_DEFLATE, "deflate"), SHAPE),
    "identity": (encoded(JPEG, "identity"), SHAPE),
    "encoding-utf-8": (encoded(JPEG, "UTF-8"), SHAPE),
    "excess": (reply(JPEG + JPEG, length=len(JPEG)), SHAPE),
    "excess-kept": (kept(reply(JPEG + reply(PLACEHOLDER), length=len(JPEG))), SHAPE),
    "slow": (answer_after(OK, 0.05), SHAPE),
    "500-then-200": (in_turn(reply(b"", 500), OK), SHAPE),
    "429-then-200": (in_turn(reply(b"", 429, "Retry-After: 0"), OK), SHAPE),
    "408-then-200": (in_turn(reply(b"", 408), OK), SHAPE),
    "reset-then-200": (in_turn(reset_after(b""), OK), SHAPE),
    "short-then-200": (in_turn(reply(JPEG[:99], length=len(JPEG)), OK), SHAPE),
    "redirect/301": (redirect("/picture.jpg", 301), SHAPE),
    "redirect/303": (redirect("/picture.jpg", 303), SHAPE),
    "redirect/307": (redirect("/picture.jpg", 307), SHAPE),
    "redirect/308": (redirect("/picture.jpg", 308), SHAPE),
    "redirect/relative": (redirect("../picture.jpg#part"), SHAPE),
    "redirect/query": (redirect("?again"), SHAPE),
    "redirect/query?again": (OK, SHAPE),
    "redirect/space": (redirect(" /picture.jpg?a b\xe9 "), SHAPE),
    "robots/other-agent": (reply(JPEG, 200, "X-Robots-Tag: otherbot: noai, noindex"), SHAPE),
    "robots/preview": (reply(JPEG, 200, "X-Robots-Tag: max-image-preview: none"), SHAPE),
}
CONTENTS = {  # of an answer that is complete
    "page.html": (HTML, "not_an_image"),
    "data.json": (b'{"error": "not found"}', "not_an_image"),
    "drawing.svg": (SVG, "not_an_image"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
    "empty": (b"", "not_an_image"),
    "zeros": (bytes(1000), "not_an_image"),
    "signature": (JPEG[:2], "not_an_image"),
    "truncated.jpg": (JPEG[: len(JPEG) * 2 // 3], "corrupt_image"),
    "truncated-progressive.jpg": (picture(11, progressive=True)[:-60], "corrupt_image"),
    "truncated.png": (picture(5, "PNG")[:-60], "corrupt_image"),
    "truncated.gif": (picture(6, "GIF", "P")[:-200], "corrupt_image"),
    "truncated.webp": (picture(7, "WEBP")[:-60], "corrupt_image"),
    "text-bomb.png": (text_bomb_png(), "corrupt_image"),
    "bomb.gif": (bomb_gif(), "too_many_pixels"),
    "strip.png": (strip(), "too_many_pixels"),
    "scans.jpg": (jpeg_scans(101), "too_many_scans"),
}
STATES = {  # HTTP's
    "gone": (404, 410),
    "refused": (201, 204, 206, 300, 304, 400, 401, 402, 403, 405, 406, 407, 418, 451, 999),
    "server_error": (500, 502, 503, 504, 520, 599),
    "timeout": (408,),
    "rate_limited": (429,),
}
HEAD = b"HTTP/1.1 200 OK\r\n"
REPLIES = {
    "429-wait": (reply(b"", 429, "Retry-After: 3600"), "rate_limited"),
    "503-wait": (reply(b"", 503, "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT"), "server_error"),
    "429-second": (reply(b"", 429, "Retry-After: 1"), "rate_limited"),
    "429-old": (reply(b"", 429, "Retry-After: Mon, 01 Jan 0001 00:00:00 -0000"), "rate_limited"),
    "429-long": (reply(b"", 429, "Retry-After: " + "9" * 5000), "rate_limited"),
    "429-junk": (reply(b"", 429, "Retry-After: soon"), "rate_limited"),
    "500-then-404": (in_turn(reply(b"", 500), reply(b"", 404)), "gone"),
    "404-kept": (kept(reply(b"not found", 404)), "gone"),
    "404-stall": (stall_after(reply(b"", 404, length=9)), "gone"),
    "404-endless": (repeat(bytes(1000), reply(b"", 404, length=-1)), "gone"),
    "404-with-picture": (reply(JPEG, 404), "gone"),
    "noai": (reply(JPEG, 200, "X-Robots-Tag: noai, noimageai"), "noai"),
    "noai-endless": (
        repeat(b"junk", HEAD + b"X-Robots-Tag: noai\r\n\r\n", 0.01),
        "noai",
    ),
    "noindex": (reply(JPEG, 200, "x-robots-tag: NOINDEX"), "noai"),
    "robots/agent": (reply(JPEG, 200, "X-Robots-Tag: edge-glass: noimageai"), "noai"),
    "robots/second": (
        reply(JPEG, 200, "X-Robots-Tag: otherbot: all", "X-Robots-Tag: noai"),
        "noai",
    ),
    "robots/after-value": (
        reply(JPEG, 200, "X-Robots-Tag: max-image-preview: large, noai"),
        "noai",
    ),
    "endless": (repeat(bytes(100_000), HEAD + b"\r\n"), "too_large"),
    "endless-chunks": (repeat(b"400\r\n%s\r\n" % bytes(1024), chunked(end=b"")), "too_large"),
    "declared-large": (reply(JPEG, length=10**12), "too_large"),
    "large": (reply(bytes(MAX_BYTES + 1)), "too_large"),
    "gzip-bomb": (encoded(gzip_bomb(), "gzip"), "too_large"),
    "brotli": (encoded(JPEG, "br"), "refused"),
    "gzip-twice": (encoded(gzip.compress(gzip.compress(JPEG)), "gzip, gzip"), "refused"),
    "gzip-false": (encoded(JPEG, "gzip"), "refused"),
    "gzip-short": (encoded(gzip.compress(JPEG)[:-99], "gzip"), "connection"),
    "closed": (b"", "connection"),
    "reset": (reset_after(b""), "connection"),
    "reset-in-head": (reset_after(HEAD), "connection"),
    "reset-in-body": (reset_after(OK[:-99]), "connection"),
    "short": (reply(JPEG[:99], length=len(JPEG)), "connection"),
    "head-only": (HEAD, "connection"),
    "chunk-short": (chunked(JPEG, end=b"ff\r\njunk"), "connection"),
    "chunk-junk": (chunked(JPEG, end=b"what\r\n"), "connection"),
    "not-http": (b"SSH-2.0-OpenSSH_9.2\r\n", "connection"),
    "http-0.9": (JPEG, "connection"),
    "http-2": (OK.replace(b"HTTP/1.1", b"HTTP/2"), "connection"),
    "status-word": (OK.replace(b"200", b"two"), "connection"),
    "length-negative": (reply(JPEG, length=-5), "connection"),
    "length-long": (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", "connection"),
    "length-word": (HEAD + b"Content-Length: much\r\n\r\n" + JPEG, "connection"),
    "length-twice": (reply(JPEG, 200, "Content-Length: 7"), "connection"),
    "header-bomb": (HEAD + b"X-Junk: " + b"x" * 200_000 + b"\r\n\r\n", "connection"),
    "header-junk": (HEAD + b"no colon\0\r\n\r\n" + JPEG, "connection"),
    "endless-headers": (repeat(b"X-Junk: junk\r\n" * 999, HEAD), "connection"),
    "upgrade": (reply(b"", 101, "Upgrade: websocket", "Connection: upgrade"), "connection"),
    "redirect/circle": (redirect("/redirect/circle-2"), "redirects"),
    "redirect/circle-2": (redirect("/redirect/circle"), "redirects"),
    "redirect/itself": (redirect(""), "redirects"),
    "redirect/nowhere": (reply(b"", 301), "redirects"),
    "redirect/file": (redirect("file:///etc/passwd"), "not_http"),
    "redirect/data": (redirect("data:image/gif;base64,R0lGODlhAQABAAAAACw="), "not_http"),
    "redirect/ftp": (redirect("ftp://127.0.0.1/a.jpg"), "not_http"),
    "redirect/script": (redirect("javascript:alert(1)"), "not_http"),
    "redirect/no-host": (redirect("https://:443/"), "bad_url"),
    "redirect/brackets": (redirect("http://[::1/"), "bad_url"),
    "redirect/port": (redirect("http://127.0.0.1:99999/"), "bad_url"),
    "redirect/user": (redirect("http://a:b@127.0.0.1/"), "bad_url"),
    "redirect/gone": (redirect("/404", 301), "gone"),
}
STALLS = {
    "stall": stall_after(b""),
    "stall-in-head": stall_after(HEAD),
    "stall-in-body": stall_after(OK[:-99]),
    "stall-in-chunk": stall_after(chunked(JPEG, end=b"f")),
    "drip": repeat(b"x", HEAD + b"\r\n", 0.05),
    "drip-headers": repeat(b"X-Junk: x\r\n", HEAD, 0.05),
    "drip-continue": repeat(b"HTTP/1.1 100 Continue\r\n\r\n", b"", 0.05),
}
ROUTES = {name: Route("ok", content, shape) for name, (content, shape) in PICTURES.items()}
ROUTES |= {name: Route(status, reply(body)) for name, (body, status) in CONTENTS.items()}
ROUTES |= {name: Route(status, content) for name, (content, status) in REPLIES.items()}
ROUTES |= {
    str(code): Route(status, reply(b"", code)) for status, codes in STATES.items() for code in codes
}
ROUTES |= {f"redirect/{n}": Route("redirects", redirect(f"{n - 1}")) for n in range(6, 9)}
ROUTES |= {f"redirect/{n}": Route("ok", redirect(f"{n - 1}"), SHAPE) for n in range(1, 6)}
ROUTES |= {"redirect/0": Route("ok", OK, SHAPE)}
ROUTES |= {name: Route("timeout", content, slow=True) for name, content in STALLS.items()}


@contextmanager
def public_hostile_server(monkeypatch) -> Iterator[HostileServer]:
    """On 127.0.0.2, which counts as public here."""
    is_public = dial.is_public
    monkeypatch.setattr(dial, "is_public", lambda ip: ip == "127.0.0.2" or is_public(ip))
    with HostileServer("127.0.0.2") as server:
        yield server
