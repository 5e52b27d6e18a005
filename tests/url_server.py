"""A server of small pictures on 127.0.0.1, with some URLs that fail, which counts its answers."""

import asyncio
import io
import math
import threading
from collections import Counter

import numpy as np
from PIL import Image


def picture(number):
    """A PNG that differs from those of other numbers."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class UrlServer:
    """KIND/NUMBER is a picture of its own (ok), one that all share (same), half of one (half),
    text (text), one with X-Robots-Tag (noai), 404 (gone) or 500 while `broken` (flaky).
    `served` counts requests by URL; no more than `limit` are answered in all.
    """

    def __enter__(self):
        self.served, self.broken, self.changed = Counter(), True, threading.Condition()
        self.limit = math.inf
        self._loop, started = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=[started], daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def url(self, kind, number):
        return f"http://127.0.0.1:{self.port}/{kind}/{number}"

    def wait_for(self, requests):
        """Wait until so many requests have come in all."""
        with self.changed:
            return self.changed.wait_for(lambda: self.served.total() >= requests, 60)

    def _run(self, started):
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()

    async def _serve(self, reader, writer):
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                path = request.split()[1].decode()
                url = f"http://127.0.0.1:{self.port}{path}"
                while self.served.total() >= self.limit and not reader.at_eof():
                    await asyncio.sleep(0.01)
                if reader.at_eof():  # the client was killed
                    break
                status, body = self._answer(*path.strip("/").split("/"))
                tag = "X-Robots-Tag: noai\r\n" if "/noai/" in path else ""
                head = f"HTTP/1.1 {status}\r\n{tag}Content-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                with self.changed:
                    self.served[url] += 1
                    self.changed.notify_all()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    def _answer(self, kind, number):
        if kind == "gone" or (kind == "flaky" and self.broken):
            return ("404 Not Found" if kind == "gone" else "500 Broken"), b""
        if kind == "text":
            return "200 OK", b"<html>no picture</html>"
        content = picture(0 if kind == "same" else 1 + int(number))
        return "200 OK", content[: len(content) // 2] if kind == "half" else content
