"""A list of 2,000 URLs, half of them bad: each row has the right status, in two runs alike."""

import random

import pytest
from sources.download.hostile_server import MAX_BYTES, ROUTES, HostileServer, find_route, picture
from url_runs import fetch_urls, read_rows, statuses

LIMITS = {"max_bytes": MAX_BYTES, "retries": 1, "shard_rows": 300}
# each holds up the whole host for a second
BAD = [name for name, route in ROUTES.items() if not route.slow and name != "429-second"]


@pytest.fixture
def server():
    with HostileServer() as server:
        yield server


def test_urls_of_hostile_servers_have_the_right_status_twice(tmp_path, server):
    paths = [f"picture/{n}" for n in range(1000)]
    paths += [f"{BAD[n % len(BAD)]}?{n}" for n in range(1000)]
    random.Random(0).shuffle(paths)
    runs = []
    for name, options in ("a", {"per_host": 64}), ("b", {"per_host": 20, "processes": 1}):
        (tmp_path / name).mkdir()
        summary = fetch_urls(tmp_path / name, map(server.url, paths), **LIMITS, **options)
        runs.append([read_rows(tmp_path / name, table) for table in ("status", "train")])
    expected = [find_route(path).status for path in paths]
    wrong = [t for t in zip(paths, statuses(tmp_path / "a"), expected, strict=True) if t[1] != t[2]]
    assert wrong == []
    assert runs[0] == runs[1]
    assert summary["alive"] == expected.count("ok") > 1000
    pictures = {row["url"]: row["image"] for row in runs[0][1]}
    assert all(pictures[server.url(f"picture/{n}")] == picture(n) for n in range(1000))


def test_urls_of_stalling_servers_time_out(tmp_path, server):
    paths = ["picture/1", *(name for name, route in ROUTES.items() if route.slow)]
    fetch_urls(tmp_path, map(server.url, paths), timeout=2)
    assert statuses(tmp_path) == ["ok"] + ["timeout"] * 7
