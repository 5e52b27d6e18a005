"""Pictures and clips of URLs, of allowed hosts only.

The host that is compared is the one that is dialled: a URL is parsed once. Each redirect is checked
in the same way, and of a name's addresses only public ones are dialled, those that were checked.
"""

import asyncio

from edge_lib.serving.errors import ApiError
from edge_lib.serving.settings import ServeSettings
from edge_lib.sources.download.dial import Resolver
from edge_lib.sources.download.fetch import FetchLimits, Response, fetch, make_client
from edge_lib.sources.download.statuses import STATUSES

CONNECTIONS, PER_HOST = 16, 8
TIMEOUT = 10.0  # seconds for a whole file, with the time that it waits for others
CODES = {"not_allowed": "url_not_allowed"}


class Fetcher:
    """An async context manager for one event loop. resolve: None for the system's."""

    def __init__(self, settings: ServeSettings, resolve: Resolver | None = None):
        self._limits = FetchLimits(
            timeout=TIMEOUT,
            max_bytes=settings.max_body_bytes,
            retries=0,
            hosts=frozenset(host.lower() for host in settings.allow_urls),
            ignore_noai=True,  # a client asks for it, no data set
            contact="a server of a model",
        )
        self._client = make_client(self._limits, CONNECTIONS, PER_HOST, resolve)

    async def __aenter__(self) -> "Fetcher":
        return self

    async def __aexit__(self, *exception) -> None:
        await self._client.__aexit__(*exception)

    async def fetch(self, url: str, param: str | None = None) -> bytes:
        """The content. ApiError says no more of what lies behind an address than its status."""
        try:
            async with asyncio.timeout(TIMEOUT):
                response = await fetch(self._client, url, self._limits)
        except TimeoutError:  # while it waited; an address may ask for a pause
            response = Response("timeout", None, None)
        if response.content is None:
            message = f"the URL gives nothing: {STATUSES[response.status]}"
            raise ApiError(400, message, CODES.get(response.status, "fetch_failed"), param)
        return response.content
