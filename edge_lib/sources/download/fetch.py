"""The content of one URL, from a server that may do anything."""

import asyncio
import random
import zlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore

from edge_lib.sources.download.addresses import WebAddress, join_url, parse_url
from edge_lib.sources.download.client import Client, Resolver, open_client
from edge_lib.sources.download.robots import forbids
from edge_lib.sources.download.statuses import Failure

MAX_WAIT = 60.0  # seconds; a host that asks for more is not waited for
REDIRECTS = (301, 302, 303, 307, 308)
UNREADABLE = ("br", "zstd", "compress", "x-compress", "dcb", "dcz")


@dataclass(frozen=True)
class FetchLimits:
    """timeout: seconds for a whole response, and half of it to connect and between two reads;
    max_bytes: of a body, as sent and unpacked; retries: of failures that may pass; backoff: seconds
    before the first retry, doubled for each further one; ignore_noai: take what X-Robots-Tag
    forbids.
    """

    timeout: float = 20.0
    max_bytes: int = 50_000_000
    redirects: int = 5
    retries: int = 3
    allow_private: bool = False
    ignore_noai: bool = False
    backoff: float = 0.5


@dataclass(frozen=True)
class Response:
    """status: of `STATUSES`; error: one line; content: of a URL that is ok."""

    status: str
    error: str | None
    content: bytes | None


def make_client(
    limits: FetchLimits, connections: int, per_host: int, resolve: Resolver | None = None
) -> AbstractAsyncContextManager[Client]:
    """connections, per_host: the most at a time."""
    return open_client(limits.timeout, connections, per_host, limits.allow_private, resolve)


async def fetch(client: Client, url: str, limits: FetchLimits) -> Response:
    """Get a URL, after redirects and retries. Never raises for what a server does."""
    for retry in range(limits.retries + 1):
        try:
            return Response("ok", None, await _follow(client, url, limits))
        except Failure as error:
            failure = error
        if not failure.passing or failure.wait > MAX_WAIT or retry == limits.retries:
            break
        backoff = limits.backoff * 2**retry * random.uniform(0.5, 1.5)
        await asyncio.sleep(max(failure.wait, backoff))
    return Response(failure.status, failure.error, None)


async def _follow(client: Client, url: str, limits: FetchLimits) -> bytes:
    """The content at the end of the redirects."""
    for _ in range(limits.redirects + 1):
        answer = await _get(client, parse_url(url), limits)
        if isinstance(answer, bytes):
            return answer
        url = join_url(url, answer)
    raise Failure("redirects", f"more than {limits.redirects}")


async def _get(client: Client, address: WebAddress, limits: FetchLimits) -> bytes | str:
    """The content, or where a redirect leads."""
    try:
        async with client.get(address) as response:
            headers = _headers(response)
            if response.status in REDIRECTS:
                return _location(response.status, headers)
            _check_status(client, address, response.status, headers)
            _check_headers(headers, limits)
            return _decoded(await _body(response, limits.max_bytes), headers, limits.max_bytes)
    except (TimeoutError, httpcore.TimeoutException):
        raise Failure("timeout", f"no whole answer within {limits.timeout:g} s") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError, ValueError) as error:
        raise Failure("connection", str(error) or type(error).__name__) from None


def _headers(response: httpcore.Response) -> dict[str, str]:
    """Names in lower case; values of the same name joined."""
    headers: dict[str, str] = {}
    for key, value in response.headers:
        name, text = key.decode("latin-1").lower(), _text(value)
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _location(status: int, headers: dict[str, str]) -> str:
    if not headers.get("location"):
        raise Failure("redirects", f"{status} without a location")
    return headers["location"]


def _check_status(client: Client, address: WebAddress, status: int, headers) -> None:
    if status == 200:
        return
    wait = _retry_after(headers.get("retry-after", ""))
    if status == 429 or status >= 500:
        if 0 < wait <= MAX_WAIT:
            client.host(address.host).pause(wait)
        raise Failure("rate_limited" if status == 429 else "server_error", str(status), wait)
    raise Failure("gone" if status in (404, 410) else "refused", f"status {status}")


def _retry_after(value: str) -> float:
    """Seconds; 0 for a value that is neither a number nor a date."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _check_headers(headers: dict[str, str], limits: FetchLimits) -> None:
    """What can be told before the body is read."""
    tag = headers.get("x-robots-tag", "")
    if tag and not limits.ignore_noai and forbids(tag):
        raise Failure("noai", f"X-Robots-Tag: {tag}")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise Failure("too_large", f"{int(length):,} bytes")
    encoding = headers.get("content-encoding", "").lower()
    if encoding in UNREADABLE or "," in encoding:
        raise Failure("refused", f"content encoding {encoding}")


async def _body(response: httpcore.Response, limit: int) -> bytes:
    body = bytearray()
    async for part in response.stream:
        body += part
        if len(body) > limit:
            raise Failure("too_large", f"more than {limit:,} bytes")
    return bytes(body)


def _decoded(body: bytes, headers: dict[str, str], limit: int) -> bytes:
    """Unpacked up to the limit. Encodings that do not exist mean nothing, as to browsers."""
    if headers.get("content-encoding", "").lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        content, whole = _inflated(body, limit + 1)
    except zlib.error as error:
        raise Failure("refused", f"content encoding: {error}") from None
    if len(content) > limit:
        raise Failure("too_large", f"more than {limit:,} bytes unpacked")
    if not whole:
        raise Failure("connection", "content encoding: the end is missing")
    return content


def _inflated(body: bytes, limit: int) -> tuple[bytes, bool]:
    """gzip, zlib or raw deflate -> at most `limit` bytes, and whether they end there."""
    for wbits in (47, -15):
        decoder = zlib.decompressobj(wbits)
        try:
            return decoder.decompress(body, limit), decoder.eof
        except zlib.error as error:
            failure = error
    raise failure
