"""Hosts that no longer answer, whose URLs would hold up a download for hours."""

import time
from collections import Counter

from edge_lib.sources.download.fetch import Response
from edge_lib.sources.download.statuses import TRANSIENT

FAILURES = 32  # in a row, each after its retries, before the next URLs are not tried
PROBE_SECONDS = 60  # after which one is


class DeadHosts:
    """Counts transient failures in a row, by host."""

    def __init__(self):
        self._failures: Counter[str] = Counter()
        self._last: dict[str, tuple[Response, float]] = {}  # with its time

    def add(self, host: str, response: Response) -> None:
        """The outcome of a URL that was tried."""
        if response.status in TRANSIENT:
            self._failures[host] += 1
            self._last[host] = response, time.monotonic()
        else:
            self._failures.pop(host, None)
            self._last.pop(host, None)

    def refusal(self, host: str) -> Response | None:
        """The outcome of a URL that is not tried, as `retry="failed"` may later; None if it is."""
        if self._failures[host] < FAILURES:
            return None
        response, then = self._last[host]
        if time.monotonic() >= then + PROBE_SECONDS:
            self._last[host] = response, time.monotonic()
            return None
        error = f"not tried, after {self._failures[host]} failures of its host: {response.error}"
        return Response(response.status, error, None)
