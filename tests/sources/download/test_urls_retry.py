"""`retry="failed"`: rows with transient failures are fetched again."""

import pytest
from url_runs import Run, fetch_urls, read_rows, statuses

from edge_lib.config import ConfigError
from edge_lib.sources.download.dead_hosts import FAILURES

KINDS = "ok", "flaky", "gone", "same", "flaky", "half"


@pytest.fixture
def urls(server):
    """60 URLs, of which two shards of ten have none that may pass."""
    kinds = [KINDS[n % 6] for n in range(40)] + ["ok"] * 10 + ["gone"] * 10
    return [server.url(kind, n) for n, kind in enumerate(kinds)]


@pytest.fixture
def failed(tmp_path, server, urls):
    """The summary of a download while some URLs are broken; they are mended then."""
    summary = fetch_urls(tmp_path, urls)
    server.broken = False
    server.served.clear()
    return summary


def tables(folder):
    return read_rows(folder, "train"), read_rows(folder, "status")


def expected_tables(folder, urls):
    """Those of a download to which all URLs answered at once."""
    (folder / "right").mkdir()
    fetch_urls(folder / "right", urls)
    return tables(folder / "right")


def test_retry_takes_up_what_may_pass(tmp_path, server, urls, failed):
    assert failed["skipped"]["server_error"] == 13
    summary = fetch_urls(tmp_path, urls, retry="failed")
    assert server.served == {url: 1 for url in urls if "flaky" in url}
    assert summary["alive"] == failed["alive"] + 13
    assert "server_error" not in summary["skipped"]
    assert tables(tmp_path) == expected_tables(tmp_path, urls)


def test_retry_leaves_other_shards_as_they_are(tmp_path, server, urls, failed):
    paths = [tmp_path / f"out/status/0000{n}.parquet" for n in range(6)]
    before = [path.stat().st_mtime_ns for path in paths]
    fetch_urls(tmp_path, urls, retry="failed")
    after = [path.stat().st_mtime_ns for path in paths]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False] * 4 + [True] * 2


def test_retry_without_failures_fetches_nothing(tmp_path, server, urls, failed):
    summary = fetch_urls(tmp_path, urls, retry="failed")
    server.served.clear()
    assert fetch_urls(tmp_path, urls, retry="failed")["alive"] == summary["alive"]
    assert not server.served


def test_retry_of_what_fails_again_keeps_the_rest(tmp_path, server, urls, failed):
    before = tables(tmp_path)
    server.broken = True
    assert fetch_urls(tmp_path, urls, retry="failed")["skipped"] == failed["skipped"]
    assert tables(tmp_path) == before


def test_retry_that_is_killed_goes_on(tmp_path, server, urls, failed):
    for requests in (2, 3):
        run = Run(tmp_path, urls, retry="failed", connections=1)
        assert server.wait_for(server.served.total() + requests)
        run.kill()
    fetch_urls(tmp_path, urls)  # what was begun
    fetch_urls(tmp_path, urls, retry="failed")
    assert statuses(tmp_path).count("server_error") == 0
    assert tables(tmp_path) == expected_tables(tmp_path, urls)


def test_retry_takes_up_urls_of_a_host_that_was_given_up(tmp_path, server):
    urls = [server.url("flaky", n) for n in range(100)]
    with pytest.raises(ConfigError, match=r"no URL gives a picture \(server_error 100\)"):
        fetch_urls(tmp_path, urls, processes=1)
    assert FAILURES <= server.served.total() < 60
    server.broken = False
    assert fetch_urls(tmp_path, urls, retry="failed")["alive"] == 100
