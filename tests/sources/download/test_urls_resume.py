"""URL downloads that are interrupted: nothing is lost, doubled, or fetched again."""

import os
import random
import signal

import psutil
import pytest
from url_runs import Run, fetch_urls, read_rows, recorded_urls, statuses

from edge_lib.config import ConfigError

KINDS = "ok", "gone", "ok", "half", "same", "text"


def make_urls(server, count, kinds=KINDS):
    return [server.url(kinds[n % len(kinds)], n) for n in range(count)]


def tables(folder):
    return read_rows(folder, "train"), read_rows(folder, "status")


def test_urls_killed_at_random_moments_loses_and_doubles_nothing(tmp_path, server):
    urls, generator = make_urls(server, 2000), random.Random(0)
    options = {"shard_rows": 50, "connections": 16}
    (tmp_path / "whole").mkdir()
    fetch_urls(tmp_path / "whole", urls, **options)
    server.served.clear()
    recorded = {}
    for _ in range(20):
        run = Run(tmp_path, urls, **options)
        assert server.wait_for(server.served.total() + generator.randrange(120))
        run.kill()
        for url in recorded_urls(tmp_path):
            recorded.setdefault(url, server.served[url])
    assert 500 < len(recorded) < 2000
    fetch_urls(tmp_path, urls, **options)
    assert tables(tmp_path) == tables(tmp_path / "whole")
    assert {url: server.served[url] for url in recorded} == recorded
    assert not [*tmp_path.glob("out/**/.*.*.*")]
