"""Connections to hosts of the public internet: a bounded number in all and per host, kept alive."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from time import monotonic
from weakref import WeakValueDictionary

import httpcore
import httpx

from edge_lib.sources.download.addresses import WebAddress, is_public
from edge_lib.sources.download.statuses import Failure

USER_AGENT = "edge-glass/0.1 (downloads of image-text data sets)"
KEEP_ALIVE = 5.0  # seconds that an unused connection stays open; servers close them soon after
MAX_ADDRESSES = 4  # of a host that are tried

Resolver = Callable[[str, int], Awaitable[list[str]]]


class Client:
    """Requests to many hosts. No redirects, cookies, or proxies (one would resolve names itself,
    and the check of addresses would be void).
    """

    def __init__(self, timeout: float, connections: int, per_host: int, backend: "Dialler"):
        self._timeout = timeout
        self._timeouts = dict.fromkeys(("connect", "read", "write"), timeout / 2)
        self._connections, self._per_host, self._backend = connections, per_host, backend
        self._slots = asyncio.Semaphore(connections)
        self._hosts: WeakValueDictionary[str, Host] = WeakValueDictionary()
        self._idle: list[tuple[tuple, httpcore.AsyncHTTPConnection]] = []  # the longest idle first
        self._active = 0

    def host(self, name: str) -> "Host":
        """What all requests to a host share; kept as long as one of them is under way."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(self._per_host)
        return host

    @asynccontextmanager
    async def get(self, address: WebAddress) -> AsyncIterator[httpcore.Response]:
        """The response to a GET request, its body not yet read, once it is the request's turn.
        TimeoutError when the time for the whole response is over.
        """
        async with (
            self.host(address.host).turn(),
            self._slots,
            asyncio.timeout(self._timeout),
        ):
            connection = await self._take(address)
            try:
                request = _request(address, self._timeouts)
                response = await connection.handle_async_request(request)
                yield response
                await response.aclose()
            finally:
                await self._give_back(address, connection)

    async def _take(self, address: WebAddress) -> httpcore.AsyncHTTPConnection:
        self._active += 1
        for entry in reversed(self._idle):
            if entry[0] == address.origin:
                self._idle.remove(entry)
                if not entry[1].has_expired():
                    return entry[1]
                await entry[1].aclose()
                break
        while self._idle and self._active + len(self._idle) > self._connections:
            await self._idle.pop(0)[1].aclose()
        return httpcore.AsyncHTTPConnection(
            _url(address).origin, _tls(), keepalive_expiry=KEEP_ALIVE, network_backend=self._backend
        )

    async def _give_back(self, address, connection) -> None:
        self._active -= 1
        if connection.is_idle():
            self._idle.append((address.origin, connection))
        else:
            await connection.aclose()

    async def aclose(self) -> None:
        for _, connection in self._idle:
            await connection.aclose()
        self._idle.clear()


class Host:
    """Limits of one host."""

    def __init__(self, connections: int):
        self._slots = asyncio.Semaphore(connections)
        self._resumes_at = 0.0

    def pause(self, seconds: float) -> None:
        """No request starts for so long."""
        self._resumes_at = max(self._resumes_at, monotonic() + seconds)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._slots:
            while (wait := self._resumes_at - monotonic()) > 0:
                await asyncio.sleep(wait)
            yield


class Dialler(httpcore.AsyncNetworkBackend):
    """Resolves a name once and dials the addresses that were checked."""

    def __init__(self, resolve: Resolver, allow_private: bool):
        self._resolve, self._allow_private = resolve, allow_private
        self._tcp = httpcore.AnyIOBackend()

    async def connect_tcp(self, host, port, timeout=None, **_) -> httpcore.AsyncNetworkStream:
        """To the first address that answers. Private ones are left out; Failure (private_address)
        if a host has no other.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._dial(await self._addresses(host, port), port)
        except TimeoutError:
            raise Failure("timeout", "no connection in time") from None

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            passing = getattr(error, "errno", None) != socket.EAI_NONAME
            raise Failure("connection", f"{host[:80]}: {error}", passing=passing) from None
        usable = [a for a in addresses if self._allow_private or is_public(a)]
        if not usable:
            raise Failure("private_address", f"{host[:80]} is {', '.join(addresses[:3])}")
        return usable[:MAX_ADDRESSES]

    async def _dial(self, addresses: list[str], port: int) -> httpcore.AsyncNetworkStream:
        for address in addresses:
            try:
                return await self._tcp.connect_tcp(address, port)
            except httpcore.ConnectError as error:
                failure = error
        raise Failure("connection", str(failure) or "refused")


@asynccontextmanager
async def open_client(
    timeout: float,
    connections: int,
    per_host: int,
    allow_private: bool = False,
    resolve: Resolver | None = None,
) -> AsyncIterator[Client]:
    """A client for the running event loop. resolve: (host, port) -> addresses; by default the
    system's resolver, in threads of its own, because a dead name may hold one for seconds.
    """
    threads = ThreadPoolExecutor(min(connections, 64), thread_name_prefix="dns")
    client = Client(
        timeout, connections, per_host, Dialler(resolve or _system_resolver(threads), allow_private)
    )
    try:
        yield client
    finally:
        await client.aclose()
        threads.shutdown(wait=False, cancel_futures=True)


def _system_resolver(threads: ThreadPoolExecutor) -> Resolver:
    def look_up(host: str, port: int) -> list[str]:
        infos = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
        return [info[4][0] for info in infos]

    async def resolve(host: str, port: int) -> list[str]:
        return await asyncio.get_running_loop().run_in_executor(threads, look_up, host, port)

    return resolve


def _url(address: WebAddress) -> httpcore.URL:
    return httpcore.URL(
        scheme=address.scheme.encode(),
        host=address.host.encode(),
        port=address.port,
        target=address.target,
    )


def _request(address: WebAddress, timeouts: dict[str, float]) -> httpcore.Request:
    headers = [
        (b"Host", address.authority),
        (b"User-Agent", USER_AGENT.encode()),
        (b"Accept", b"*/*"),
        (b"Accept-Encoding", b"identity"),
    ]
    return httpcore.Request(
        b"GET", _url(address), headers=headers, extensions={"timeout": timeouts}
    )


@cache
def _tls() -> ssl.SSLContext:
    """Verifies certificates; SSL_CERT_FILE and SSL_CERT_DIR name other authorities."""
    return httpx.create_ssl_context()
