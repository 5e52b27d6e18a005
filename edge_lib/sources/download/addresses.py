"""Which URLs are web addresses, and which network addresses belong to the public internet."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urljoin

import httpx

from edge_lib.sources.download.statuses import Failure

MAX_LENGTH = 8192  # of a URL; servers take about as much
PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")

# IANA's registries of special-purpose addresses, and what clouds serve their machines
PRIVATE_IPV4 = [
    ip_network(block)
    for block in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
]
GLOBAL_IPV6 = ip_network("2000::/3")  # not mapped or translated IPv4, unique local, link-local
PRIVATE_IPV6 = [
    ip_network(block)
    for block in (
        "2001::/23",  # Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",
    )
]


@dataclass(frozen=True)
class WebAddress:
    """An http or https URL in parts, as a request needs them. host: without brackets and final dot;
    target: path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    target: bytes

    @property
    def authority(self) -> str:
        """The header Host."""
        return self.full_authority.removesuffix(f":{PORTS[self.scheme]}")

    @property
    def full_authority(self) -> str:
        """With the port, also if it is the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


def parse_url(url: str) -> WebAddress:
    """Raises Failure (bad_url, not_http)."""
    text = (url or "").strip()
    if len(text) > MAX_LENGTH:
        raise Failure("bad_url", f"{len(text):,} characters")
    try:
        parts = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise Failure("bad_url", str(error)) from None
    if parts.scheme not in PORTS:
        known = "not_http" if parts.scheme else "bad_url"
        raise Failure(known, f"scheme {parts.scheme[:20]!r}" if parts.scheme else "no scheme")
    port = PORTS[parts.scheme] if parts.port is None else parts.port
    if not 0 < port < 65536:
        raise Failure("bad_url", f"port {port}")
    if parts.userinfo:  # nearly always an attempt to hide the host
        raise Failure("bad_url", "a user name in the URL")
    host = parts.raw_host.decode("ascii").removesuffix(".")
    if not (HOST.fullmatch(host) or _is_ipv6(host)):
        raise Failure("bad_url", f"host {host[:80]!r}")
    return WebAddress(parts.scheme, host, port, parts.raw_path)


def join_url(base: str, location: str) -> str:
    """The URL that a redirect leads to. Raises Failure (bad_url)."""
    try:
        return urljoin(base.strip(), location.strip())
    except ValueError as error:
        raise Failure("bad_url", f"redirect: {error}") from None


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address belongs to the public internet.

    IPv6 addresses that hold an IPv4 address (mapped, NAT64, 6to4, Teredo) do not.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        return ip in GLOBAL_IPV6 and not any(ip in block for block in PRIVATE_IPV6)
    return not any(ip in block for block in PRIVATE_IPV4)


def _is_ipv6(host: str) -> bool:
    try:
        return ":" in host and "%" not in host and bool(IPv6Address(host))
    except ValueError:
        return False
