"""The content of one URL, from a server that may do anything."""

import asyncio
import random
import zlib
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time

import h11

from edge_lib.sources.download.addresses import WebAddress, join_url, parse_url
from edge_lib.sources.download.client import Client
from edge_lib.sources.download.connection import Connection
from edge_lib.sources.download.dial import Resolver
from edge_lib.sources.download.robots import forbids
from edge_lib.sources.download.statuses import TRANSIENT, Failure

MAX_WAIT = 60.0  # seconds; a host that asks for more is not waited for
REDIRECTS = (301, 302, 303, 307, 308)
KINDS = {404: "gone", 408: "timeout", 410: "gone", 429: "rate_limited"}
ERRORS = OSError, h11.ProtocolError  # TimeoutError is an OSError
SHORT_BYTES, SHORT_SECONDS = 16_384, 0.5  # of answers without content that are read to the end
UNREADABLE = ("br", "zstd", "compress", "x-compress", "dcb", "dcz")


@dataclass(frozen=True)
class FetchLimits:
    """hosts: that may be fetched from, as in the header Host, None for all; timeout: seconds for a
    whole response, and half of it to connect and between two reads;
    max_bytes: of a body, as sent and unpacked; retries: of transient failures; ignore_noai:
    take what X-Robots-Tag forbids; contact: an address for the header User-Agent, which some hosts
    ask for; backoff: seconds before the first retry, doubled for each further one.
    """

    timeout: float = 20.0
    max_bytes: int = 50_000_000
    redirects: int = 5
    retries: int = 3
    allow_private: bool = False
    ignore_noai: bool = False
    contact: str = ""
    backoff: float = 0.5
    hosts: frozenset[str] | None = None


@dataclass(frozen=True)
class Response:
    """status: of `STATUSES`; error: one line; content: of a URL that is ok."""

    status: str
    error: str | None
    content: bytes | None


def make_client(
    limits: FetchLimits, connections: int, per_host: int, resolve: Resolver | None = None
) -> Client:
    """An async context manager. connections, per_host: the most at a time."""
    private, contact = limits.allow_private, limits.contact
    return Client(limits.timeout, connections, per_host, private, contact, resolve)


async def fetch(client: Client, url: str, limits: FetchLimits) -> Response:
    """Get a URL, after redirects and retries. Never raises for what a server does."""
    for retry in range(limits.retries + 1):
        try:
            return Response("ok", None, await _follow(client, url, limits))
        except Failure as error:
            failure = error
        if not failure.transient or retry == limits.retries:
            break
        await asyncio.sleep(limits.backoff * 2**retry * random.uniform(0.5, 1.5))
    return Response(failure.status, failure.error, None)


async def _follow(client: Client, url: str, limits: FetchLimits) -> bytes:
    """The content at the end of the redirects."""
    for _ in range(limits.redirects + 1):
        address = parse_url(url)
        names = {address.authority, address.full_authority}
        if limits.hosts is not None and limits.hosts.isdisjoint(names):
            raise Failure("not_allowed", address.authority)
        answer = await _get(client, address, limits)
        if isinstance(answer, bytes):
            return answer
        url = join_url(url, answer)
    raise Failure("redirects", f"more than {limits.redirects}")


async def _get(client: Client, address: WebAddress, limits: FetchLimits) -> bytes | str:
    """The content, or where a redirect leads."""
    try:
        async with client.get(address) as response:
            if response.status != 200:
                await _finish(response)
            if response.status in REDIRECTS:
                return _location(response)
            _check_status(client, address.host, response)
            _check_headers(response, limits)
            return _unpacked(response, await _body(response, limits.max_bytes), limits.max_bytes)
    except TimeoutError as error:
        line = str(error) or f"not complete within {limits.timeout:g} s"
        raise Failure("timeout", line) from None
    except ERRORS as error:
        raise Failure("connection", str(error) or type(error).__name__) from None


def _values(response: Connection, name: bytes) -> list[str]:
    return [_text(value) for key, value in response.headers if key == name]


def _header(response: Connection, name: bytes) -> str:
    """The first value of a header; "" without any."""
    return next(iter(_values(response, name)), "")


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _location(response: Connection) -> str:
    location = _header(response, b"location")
    if not location:
        raise Failure("redirects", f"status {response.status} without a location")
    return location


def _check_status(client: Client, host: str, response: Connection) -> None:
    status = response.status
    if status == 200:
        return
    kind = KINDS.get(status, "server_error" if 500 <= status < 600 else "refused")
    wait = _retry_after(_header(response, b"retry-after"))
    transient = kind in TRANSIENT and wait <= MAX_WAIT
    if transient and wait:
        client.pause(host, wait)
    raise Failure(kind, f"status {status}", transient)


def _retry_after(value: str) -> float:
    """Seconds; 0 for a value that is neither a number nor a date."""
    try:
        if value.isdecimal():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except Exception:  # the parser of dates raises nearly anything
        return 0.0


def _check_headers(response: Connection, limits: FetchLimits) -> None:
    """What can be told before the body is read."""
    for tag in _values(response, b"x-robots-tag"):
        if not limits.ignore_noai and forbids(tag):
            raise Failure("noai", f"X-Robots-Tag: {tag}")
    length = _header(response, b"content-length")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise Failure("too_large", f"{int(length):,} bytes")
    encoding = _header(response, b"content-encoding").lower()
    if "," in encoding or encoding in UNREADABLE:
        raise Failure("refused", f"content encoding {encoding}")


async def _finish(response: Connection) -> None:
    """Read an answer that is short, so that its connection can serve another request."""
    with suppress(Failure, *ERRORS):
        async with asyncio.timeout(SHORT_SECONDS):
            await _body(response, SHORT_BYTES)


async def _body(response: Connection, limit: int) -> bytes:
    body = bytearray()
    while part := await response.read():
        body += part
        if len(body) > limit:
            raise Failure("too_large", f"more than {limit:,} bytes")
    return bytes(body)


def _unpacked(response: Connection, body: bytes, limit: int) -> bytes:
    """The body without its encoding. Unknown encodings are ignored, as browsers do."""
    if _header(response, b"content-encoding").lower() not in ("gzip", "x-gzip", "deflate"):
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
