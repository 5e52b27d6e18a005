"""Hosts that do not answer any more."""

import pytest

from edge_lib.sources.download import dead_hosts
from edge_lib.sources.download.dead_hosts import FAILURES, PROBE_SECONDS, DeadHosts
from edge_lib.sources.download.fetch import Response

OK, GONE = Response("ok", None, b"picture"), Response("gone", "status 404", None)
FAILURE = Response("timeout", "no whole answer within 20 s", None)


@pytest.fixture
def clock(monkeypatch):
    """A list that holds the time."""
    now = [100.0]
    monkeypatch.setattr(dead_hosts.time, "monotonic", lambda: now[0])
    return now


def add_failures(hosts, count, host="a"):
    for _ in range(count):
        assert hosts.refusal(host) is None
        hosts.add(host, FAILURE)


def test_host_that_fails_in_a_row_is_not_tried(clock):
    hosts = DeadHosts()
    add_failures(hosts, FAILURES)
    refusal = hosts.refusal("a")
    assert (refusal.status, refusal.content) == ("timeout", None)
    assert refusal.error == f"not tried, after {FAILURES} failures of its host: {FAILURE.error}"
    assert hosts.refusal("b") is None


@pytest.mark.parametrize("answer", [OK, GONE], ids=["ok", "gone"])
def test_host_that_answers_at_times_is_tried(clock, answer):
    hosts = DeadHosts()
    for _ in range(3):
        add_failures(hosts, FAILURES - 1)
        hosts.add("a", answer)
    assert hosts.refusal("a") is None


def test_dead_host_is_tried_now_and_then(clock):
    hosts = DeadHosts()
    add_failures(hosts, FAILURES)
    clock[0] += PROBE_SECONDS
    assert hosts.refusal("a") is None
    assert hosts.refusal("a") is not None
    hosts.add("a", FAILURE)
    assert hosts.refusal("a") is not None
    clock[0] += PROBE_SECONDS
    assert hosts.refusal("a") is None
    hosts.add("a", OK)
    assert [hosts.refusal("a") for _ in range(3)] == [None] * 3
