"""Fetching from servers that do all that servers do. What becomes of each route of the hostile
server is written beside the route.
"""

import asyncio
from dataclasses import replace

import pytest
from sources.download.hostile_server import MAX_BYTES, ROUTES, HostileServer

from edge_lib.sources.download.content import check_picture
from edge_lib.sources.download.fetch import FetchLimits, fetch, make_client

LIMITS = FetchLimits(max_bytes=MAX_BYTES, allow_private=True, retries=1, backoff=0.01)


def get(urls, limits=LIMITS, connections=32, per_host=32, resolve=None):
    """The responses of URLs that are fetched at the same time."""

    async def run():
        async with make_client(limits, connections, per_host, resolve) as client:
            return await asyncio.gather(*(fetch(client, url, limits) for url in urls))

    return asyncio.run(run())


@pytest.fixture
def server():
    with HostileServer() as server:
        yield server


@pytest.fixture(scope="module")
def outcomes():
    """Of all routes: the response, and the picture if there is content."""
    slow = [path for path, route in ROUTES.items() if route.slow]
    quick = [path for path in ROUTES if path not in slow]
    with HostileServer() as server:
        responses = get([server.url(path) for path in quick])
        responses += get([server.url(path) for path in slow], replace(LIMITS, timeout=0.3))
    return {
        path: (
            response,
            check_picture(response.content, None, 10**6) if response.content is not None else None,
        )
        for path, response in zip(quick + slow, responses, strict=True)
    }


@pytest.mark.parametrize("path", ROUTES)
def test_fetch_of_route(outcomes, path):
    response, picture = outcomes[path]
    result = picture or response
    assert (result.status, result.error) == (ROUTES[path].status, result.error)
    if result.status == "ok":
        assert (picture.width, picture.height) == ROUTES[path].shape
