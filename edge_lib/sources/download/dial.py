"""Connections to hosts, of which only public addresses are dialled."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import httpx

from edge_lib.sources.download.addresses import WebAddress, is_public
from edge_lib.sources.download.connection import Connection
from edge_lib.sources.download.statuses import Failure

MAX_ADDRESSES = 4  # of a host that are tried

Resolver = Callable[[str, int], Awaitable[list[str]]]


class Dialler:
    """Resolves a host once for each connection, and dials an address that it has checked: what a
    second answer of the name server would be does not matter.
    """

    def __init__(self, resolve: Resolver, allow_private: bool, timeout: float):
        self._resolve, self._allow_private, self._timeout = resolve, allow_private, timeout

    async def dial(self, address: WebAddress) -> Connection:
        """A connection to the first address of the host that answers. Private ones are left out;
        Failure (private_address) if the host has no other.
        """
        failure = None
        addresses = await self._addresses(address.host, address.port)
        for ip in addresses:
            try:
                async with asyncio.timeout(self._timeout / len(addresses)):
                    return await _connect(address, ip, self._timeout)
            except TimeoutError:
                failure = Failure("timeout", "no connection in time")
            except (OSError, ValueError) as error:
                transient = not isinstance(error, ssl.SSLCertVerificationError)
                failure = Failure("connection", str(error) or type(error).__name__, transient)
        raise failure

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            async with asyncio.timeout(self._timeout):
                addresses = await self._resolve(host, port)
        except TimeoutError:
            raise Failure("timeout", f"{host[:80]} is not resolved in time") from None
        except (OSError, UnicodeError) as error:
            transient = getattr(error, "errno", None) != socket.EAI_NONAME
            raise Failure("connection", f"{host[:80]}: {error}", transient) from None
        usable = [ip for ip in addresses if self._allow_private or is_public(ip)]
        if not usable:
            raise Failure("private_address", f"{host[:80]} has no public address")
        return usable[:MAX_ADDRESSES]


def system_resolver(threads: ThreadPoolExecutor) -> Resolver:
    """The resolver of the system, which may hold a thread for seconds."""

    async def resolve(host: str, port: int) -> list[str]:
        try:
            return _look_up(host, port, socket.AI_NUMERICHOST)  # never waits
        except OSError:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(threads, _look_up, host, port, socket.AI_ADDRCONFIG)

    return resolve


def _look_up(host: str, port: int, flags: int) -> list[str]:
    infos = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM, flags=flags)
    return [info[4][0] for info in infos]


async def _connect(address: WebAddress, ip: str, timeout: float) -> Connection:
    tls = {"ssl": _tls(), "server_hostname": address.host} if address.scheme == "https" else {}
    return Connection(*await asyncio.open_connection(ip, address.port, **tls), timeout)


@cache
def _tls() -> ssl.SSLContext:
    """Verifies certificates; SSL_CERT_FILE and SSL_CERT_DIR name other authorities."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
