"""What routes need: the loaded service, a key, and streams that end with the request.

All are coroutines: FastAPI calls plain functions in a thread, each of which waits for the model's.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect

from edge_lib.serving.errors import ApiError
from edge_lib.serving.generation.request import Stream
from edge_lib.serving.service import Service

T = TypeVar("T")
BEARER = HTTPBearer(auto_error=False, description="the server's --api-key, if it has one")


async def check_site(request: Request) -> None:
    """ApiError 403 for a page of another site, which may send forms and show pictures: it cannot
    read answers, but keeps the model busy. Links lead here.
    """
    is_foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
    is_link = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    if is_foreign and not is_link:
        raise ApiError(403, "pages of other sites may not use this server", "other_site")


async def authorize(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
) -> None:
    """ApiError 401 unless the client has the key; any wrong one is compared for as long."""
    key = request.app.state.settings.api_key
    given = credentials.credentials.encode("latin-1", "replace") if credentials else b""
    if key and not hmac.compare_digest(given, key.get_secret_value().encode()):
        hint = "send the API key as a bearer token in Authorization"
        raise ApiError(401, "wrong API key" if given else hint, "invalid_api_key")


async def loaded_service(request: Request) -> Service:
    """ApiError 503 while the model loads."""
    if request.app.state.service is None:
        raise ApiError(503, "the model is loading", "loading", retry_after=1)
    return request.app.state.service


async def own_streams() -> AsyncIterator[list[Stream]]:
    """Streams of a request; they leave the batch when it ends, also if the client left."""
    streams: list[Stream] = []
    try:
        yield streams
    finally:
        for stream in streams:
            stream.cancel()


ServiceOf = Annotated[Service, Depends(loaded_service)]
Streams = Annotated[list[Stream], Depends(own_streams)]


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work, which is cancelled if the client leaves; the body has been read."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if watch.done() and (error := watch.exception()):  # of the body, such as its size
            raise error
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.wait({task})  # which may add streams until it has ended


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
