"""The order in which URLs are fetched: a host after another, and none by too many at once."""

import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit


class Schedule:
    """Tasks that wait, by host."""

    def __init__(self, per_host: int):
        self.per_host = per_host
        self._waiting: dict[str, deque[Any]] = defaultdict(deque)
        self._active: Counter[str] = Counter()
        self._ready: OrderedDict[str, None] = OrderedDict()  # hosts with a task that may start
        self.waiting = 0

    @property
    def active(self) -> int:
        """Tasks that were taken and not released."""
        return self._active.total()

    def add(self, tasks: Iterable[tuple[str, Any]], generator: random.Random) -> None:
        """Add tasks with their hosts, which take turns in random order."""
        hosts = defaultdict(deque)
        for host, task in tasks:
            hosts[host].append(task)
        for host in generator.sample([*hosts], len(hosts)):
            self._waiting[host].extend(hosts[host])
            self.waiting += len(hosts[host])
            self._make_ready(host)

    def take(self) -> tuple[str, Any] | None:
        """The next task and its host, to be released; None if none may start now."""
        if not self._ready:
            return None
        host, _ = self._ready.popitem(last=False)
        self.waiting -= 1
        self._active[host] += 1
        task = self._waiting[host].popleft()
        self._make_ready(host)
        return host, task

    def release(self, host: str) -> None:
        """A task of the host has ended."""
        self._active[host] -= 1
        self._make_ready(host)
        if not self._active[host]:
            del self._active[host]

    def _make_ready(self, host: str) -> None:
        if not self._waiting[host]:
            del self._waiting[host]
        elif self._active[host] < self.per_host and host not in self._ready:
            self._ready[host] = None


def host_of(url: str) -> str:
    """The host of a URL; "" if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
