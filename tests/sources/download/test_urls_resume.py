"""URL downloads that are interrupted: nothing is lost, doubled, or fetched again."""

import math
import os
import random
import re
import resource
import signal
import subprocess
import sys

import psutil
import pytest
from url_runs import OPTIONS, Run, fetch_urls, read_rows, recorded_urls, write_csv

from edge_lib import download
from edge_lib.config import ROOT, ConfigError

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
        server.limit = server.served.total() + generator.randrange(1, 100)
        run = Run(tmp_path, urls, **options)
        assert server.wait_for(server.limit)
        run.kill()
        for url in recorded_urls(tmp_path):
            recorded.setdefault(url, server.served[url])
    assert recorded
    assert len(recorded) <= server.served.total() < 2000
    server.limit = math.inf
    fetch_urls(tmp_path, urls, **options)
    assert tables(tmp_path) == tables(tmp_path / "whole")
    assert {url: server.served[url] for url in recorded} == recorded
    assert not [*tmp_path.glob("out/**/.*.*.*")]


@pytest.fixture
def half_done(tmp_path, server):
    """A download of 60 URLs that was killed; its URLs and the tables that it is to have."""
    urls = make_urls(server, 60)
    (tmp_path / "whole").mkdir()
    fetch_urls(tmp_path / "whole", urls)
    server.limit = server.served.total() + 30
    run = Run(tmp_path, urls, connections=2)
    server.wait_for(server.limit)
    run.kill()
    server.limit = math.inf
    return urls, tables(tmp_path / "whole")


def damage(path):
    content = bytearray(path.read_bytes())
    if content:  # a journal may just have begun
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("change", [damage, lambda path: os.truncate(path, 50)], ids=["bit", "cut"])
def test_urls_goes_on_after_a_damaged_journal(tmp_path, half_done, change):
    urls, whole = half_done
    for path in (tmp_path / "out/partial").iterdir():
        change(path)
    fetch_urls(tmp_path, urls)
    assert tables(tmp_path) == whole


@pytest.mark.parametrize("name", ["train-00001.parquet", "status/00002.parquet"])
@pytest.mark.parametrize(
    "change", [os.remove, lambda path: os.truncate(path, 50)], ids=["gone", "cut"]
)
def test_urls_fetches_a_damaged_shard_again(tmp_path, server, name, change):
    urls = make_urls(server, 60)
    first = fetch_urls(tmp_path, urls)
    whole = tables(tmp_path)
    server.served.clear()
    change(tmp_path / "out" / name)
    assert fetch_urls(tmp_path, urls) | {"seconds": 0} == first | {"seconds": 0}
    assert tables(tmp_path) == whole
    assert server.served.total() == 10


def test_urls_that_are_complete_are_not_fetched_again(tmp_path, server):
    urls = make_urls(server, 30)
    summary = fetch_urls(tmp_path, urls)
    server.served.clear()
    os.utime(tmp_path / "list.csv", (1, 1))
    assert fetch_urls(tmp_path, urls, processes=1, timeout=3) == summary
    assert not server.served


def test_urls_goes_on_without_its_list(tmp_path, half_done):
    (tmp_path / "list.csv").unlink()
    download("urls", tmp_path / "out", list=tmp_path / "list.csv", **OPTIONS)
    assert tables(tmp_path) == half_done[1]


@pytest.mark.parametrize("complete", [True, False])
def test_urls_refuses_another_list(tmp_path, server, half_done, complete):
    urls, _ = half_done
    if complete:
        fetch_urls(tmp_path, urls)
    with pytest.raises(ConfigError, match=r"holds another download: list_sha256 is"):
        fetch_urls(tmp_path, [*urls, server.url("ok", 99)])


def test_urls_refuses_a_folder_that_is_written(tmp_path, server):
    urls = make_urls(server, 300)
    run = Run(tmp_path, urls, connections=1)
    server.wait_for(5)
    with pytest.raises(ConfigError, match=rf"/\.lock is held by process {run.process.pid} on "):
        fetch_urls(tmp_path, urls)
    run.kill()


def test_urls_processes_end_with_their_parent(tmp_path, server):
    run = Run(tmp_path, make_urls(server, 3000), connections=2)
    server.wait_for(5)
    children = psutil.Process(run.process.pid).children()
    run.kill(group=False)
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (2, [])


def test_urls_interrupted_say_so_in_a_line(tmp_path, server):
    urls = make_urls(server, 1500)
    run = Run(tmp_path, urls, connections=2)
    server.wait_for(50)
    os.killpg(run.process.pid, signal.SIGINT)
    run.process.join()
    line = f"interrupted; {tmp_path}/out keeps what was fetched, and the same command goes on"
    assert (tmp_path / "ended").read_text() == line
    recorded = recorded_urls(tmp_path)
    server.served.clear()
    fetch_urls(tmp_path, urls)
    assert len(recorded) > 20
    assert not recorded & server.served.keys()


def test_urls_on_a_full_disk_stop_with_a_line(tmp_path, server, half_done):
    urls, whole = half_done
    run = Run(tmp_path, urls, limits=[(resource.RLIMIT_FSIZE, 2500)])
    run.process.join()
    line = (tmp_path / "ended").read_text()
    assert re.fullmatch(r".*/out: .*File too large.*; what was fetched is kept: run .*", line)
    recorded = recorded_urls(tmp_path)
    server.served.clear()
    fetch_urls(tmp_path, urls)
    assert tables(tmp_path) == whole
    assert recorded
    assert not recorded & server.served.keys()


def test_urls_with_more_connections_than_files_are_refused(tmp_path, server):
    limits = [(resource.RLIMIT_NOFILE, 300)]
    run = Run(tmp_path, make_urls(server, 10), limits=limits, connections=400, per_host=1)
    run.process.join()
    assert "needs 500 open files, but may have 300" in (tmp_path / "ended").read_text()
    assert not server.served


def test_urls_may_be_fetched_by_a_script_without_a_main_guard(tmp_path, server):
    write_csv(tmp_path / "list.csv", make_urls(server, 10))
    options = {"list": str(tmp_path / "list.csv"), "allow_private": True, "processes": 1}
    script = f"import edge_lib; edge_lib.download('urls', {str(tmp_path / 'out')!r}, **{options})"
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, tmp_path / "script.py"], env=environment, check=True)
    assert len(read_rows(tmp_path, "train")) == 5
