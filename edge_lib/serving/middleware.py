"""Around every request: an id, limits of its body, counts, headers of safety, a last resort."""

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_lib.serving.errors import ApiError
from edge_lib.serving.media import take_turns
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings

log = logging.getLogger("edge_glass.serving")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOCAL = {"localhost", "127.0.0.1", "::1"}
PROBES = {"/health", "/ready", "/metrics"}  # asked every few seconds
DISCONNECTED = 499  # a client that left; nobody receives it
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RequestMiddleware:
    """Wraps the app; all errors reach the client as JSON."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics):
        self.app, self.settings, self.metrics = app, settings, metrics
        self.bodies = Bodies()
        checked = settings.host in LOCAL or settings.allow_hosts
        self.hosts = {*LOCAL, *map(str.lower, settings.allow_hosts)} if checked else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        take_turns()
        if scope["method"] == "HEAD":  # as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        exchange = Exchange(scope, receive, send, self.settings, self.bodies)
        try:
            with self.metrics.running.track_inprogress():
                await self._answer(exchange)
        finally:
            self.bodies.size -= exchange.received
        self._count(exchange)

    def _count(self, exchange: "Exchange") -> None:
        scope = exchange.scope
        route = getattr(scope.get("route"), "path", "other")
        seconds = time.monotonic() - exchange.start
        self.metrics.requests.labels(route, _method(scope), exchange.status).inc()
        self.metrics.latency.labels(route).observe(seconds)
        level = logging.DEBUG if route in PROBES else logging.INFO
        fields = exchange.id, scope["method"], route, exchange.status, 1000 * seconds
        log.log(level, "%s %s %s %d %.0f ms", *fields)

    async def _answer(self, exchange: "Exchange") -> None:
        try:
            self._check_host(exchange.headers.get("host"))
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except ApiError as error:
            await exchange.refuse(error)
        except ClientDisconnect:
            exchange.status = DISCONNECTED
        except Exception:
            log.exception("%s failed", exchange.id)
            await exchange.refuse(ApiError(500, "internal error; the server's log has the cause"))

    def _check_host(self, host: str | None) -> None:
        """A web page may let a name of its own lead to this machine (DNS rebinding)."""
        if host and self.hosts is not None and _name(host) not in self.hosts:
            raise ApiError(
                403, "this server has another name; --allow-hosts adds one", "wrong_host"
            )


@dataclass
class Bodies:
    """Of all requests under way, in bytes."""

    size: int = 0


class Exchange:
    """One request, and its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, settings: ServeSettings, bodies: Bodies
    ):
        self.scope, self._receive, self._send = scope, receive, send
        self.settings, self.bodies = settings, bodies
        self.start, self.received, self.complete = time.monotonic(), 0, False
        self.headers, self.status = Headers(scope=scope), DISCONNECTED
        given = self.headers.get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"], state["count_bytes"] = self.id, self.count_bytes

    async def receive(self) -> Message:
        """The next part of the body; ApiError if it is too long, or takes too long."""
        if self.complete:
            return await self._receive()
        self._check_size(int(self.headers.get("content-length") or 0))
        left = self.start + self.settings.body_timeout - time.monotonic()
        try:
            async with asyncio.timeout(max(left, 0)):  # takes what has come even if nothing is left
                message = await self._receive()
        except TimeoutError:
            limit = f"{self.settings.body_timeout:g} s"
            raise ApiError(408, f"the body did not arrive within {limit}") from None
        self.count_bytes(len(message.get("body", b"")))
        self.complete = not message.get("more_body", False)
        return message

    def count_bytes(self, size: int) -> None:
        """Of the body, or of what a URL in it gave. ApiError if it is too much."""
        self.received += size
        self.bodies.size += size
        self._check_size(self.received)
        if self.bodies.size > self.settings.max_bodies_mb * 10**6:
            raise ApiError(429, "too many large bodies are under way", "overloaded", retry_after=1)

    def _check_size(self, size: int) -> None:
        if size > self.settings.max_body_bytes:
            limit = self.settings.max_body_bytes
            raise ApiError(413, f"the request is larger than {limit:,} bytes", "too_large")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error, unless the answer has begun: then its end is missing."""
        if self.status == DISCONNECTED:
            await error.response(self.id)(self.scope, self._receive, self.send)


def _name(host: str) -> str:
    """Of a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _method(scope: Scope) -> str:
    """As a label, of which there are few."""
    known = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    return scope["method"] if scope["method"] in known else "other"
