"""Requests to many hosts: a bounded number of connections in all and per host, kept alive."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import monotonic
from weakref import WeakValueDictionary

import h11

from edge_lib.sources.download.addresses import WebAddress
from edge_lib.sources.download.connection import Connection
from edge_lib.sources.download.dial import Dialler, Resolver, system_resolver

AGENT = "edge-glass/0.1"


class Client:
    """Sends requests. httpx's client would spend four times as long on each, and more with more
    connections. No redirects, cookies, or proxies: a proxy would resolve names itself, and the
    check of addresses would be void.

    timeout: seconds for a whole response, and half of it to connect and between two reads;
    connections, per_host: the most at a time; contact: to whom the server may turn; resolve:
    (host, port) -> addresses, None for the system's.
    """

    def __init__(
        self,
        timeout: float,
        connections: int,
        per_host: int,
        allow_private: bool,
        contact: str,
        resolve: Resolver | None,
    ):
        self._timeout, self._connections, self._per_host = timeout, connections, per_host
        agent = f"{AGENT} ({contact or 'downloads of image-text data sets'})"
        self._headers = [("User-Agent", agent), ("Accept", "*/*"), ("Accept-Encoding", "identity")]
        # threads of its own: names that do not resolve would hold all of the event loop's
        self._threads = ThreadPoolExecutor(min(connections, 64), thread_name_prefix="dns")
        resolve = resolve or system_resolver(self._threads)
        self._dialler = Dialler(resolve, allow_private, timeout / 2)
        self._slots = asyncio.Semaphore(connections)
        self._host_slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._resumes: dict[str, float] = {}  # host -> time at which its pause is over
        self._idle: list[tuple[tuple, Connection]] = []  # the longest idle first
        self._open = 0

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_) -> None:
        while self._idle:
            self._close(self._idle.pop()[1])
        self._threads.shutdown(wait=False, cancel_futures=True)

    def pause(self, host: str, seconds: float) -> None:
        """No request to the host starts for so long."""
        now = monotonic()
        resumes = max(self._resumes.get(host, 0), now + seconds)
        self._resumes = {h: t for h, t in self._resumes.items() if t > now} | {host: resumes}

    @asynccontextmanager
    async def get(self, address: WebAddress) -> AsyncIterator[Connection]:
        """A connection with the response to a GET request, its body not yet read, once it is the
        request's turn. Raises Failure, what a `Connection` raises, and TimeoutError when the time
        for all of it is over.
        """
        async with self._turn(address.host), asyncio.timeout(self._timeout):
            connection = await self._response(address)
            try:
                yield connection
            finally:
                if connection.reset():
                    self._idle.append((address.origin, connection))
                else:
                    self._close(connection)

    @asynccontextmanager
    async def _turn(self, host: str) -> AsyncIterator[None]:
        slots = self._host_slots.get(host)
        if slots is None:
            slots = self._host_slots[host] = asyncio.Semaphore(self._per_host)
        async with slots:
            while (wait := self._resumes.get(host, 0) - monotonic()) > 0:
                await asyncio.sleep(wait)
            async with self._slots:
                yield

    async def _response(self, address: WebAddress) -> Connection:
        """Over an idle connection, or over a new one if the server has just closed that."""
        headers = [("Host", address.authority), *self._headers]
        while True:
            idle = self._take(address)
            connection = idle or await self._connect(address)
            try:
                await connection.get(address.target, headers)
                return connection
            except BaseException as error:
                self._close(connection)
                stale = idle and isinstance(error, (ConnectionError, h11.RemoteProtocolError))
                if not stale:
                    raise

    def _take(self, address: WebAddress) -> Connection | None:
        """An idle connection."""
        for entry in reversed(self._idle):
            if entry[0] == address.origin:
                self._idle.remove(entry)
                if entry[1].is_open():
                    return entry[1]
                self._close(entry[1])
        return None

    async def _connect(self, address: WebAddress) -> Connection:
        while self._idle and self._open >= self._connections:
            self._close(self._idle.pop(0)[1])
        self._open += 1
        try:
            return await self._dialler.dial(address)
        except BaseException:
            self._open -= 1
            raise

    def _close(self, connection: Connection) -> None:
        self._open -= 1
        connection.close()
