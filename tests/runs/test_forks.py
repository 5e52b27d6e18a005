"""Functions in processes that are forked from a server."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial

import psutil
import pytest
from fork_targets import block, end, prepare, report
from sweeps import wait_for

from edge_lib.config import ROOT
from edge_lib.runs import forks
from edge_lib.runs.forks import ForkServer

SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from edge_lib.runs.forks import ForkServer
from fork_targets import block, prepare

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    server = ForkServer(folder, partial(prepare, folder), {})
    server.start("blocked", partial(block, folder))
    server.ended()
"""


@pytest.fixture
def server(tmp_path):
    """A server that prepares in, and writes logs to, tmp_path."""
    with closing(ForkServer(tmp_path, partial(prepare, tmp_path), {"FORK_TEST": "1"})) as server:
        yield server


def number(file):
    wait_for(lambda: file.exists() and file.read_text())
    return int(file.read_text().split()[0])


def test_functions_are_forked_from_one_server_that_prepared(server, tmp_path):
    for name in "ab":
        server.start(name, partial(report, tmp_path, name))
    assert sorted(server.ended() for _ in "ab") == [("a", 0), ("b", 0)]
    pid = number(tmp_path / "prepared")
    assert (tmp_path / "prepared").read_text() == f"{pid} 1\n"
    assert [number(tmp_path / name) for name in "ab"] == [pid, pid]
    assert pid != os.getpid()
    assert "FORK_TEST" not in os.environ
    assert sorted(server.log("a").read_text().splitlines()) == ["out of a", "shell of a"]


def test_function_that_dies_takes_only_itself(server, tmp_path):
    server.start("blocked", partial(block, tmp_path))
    for code in (3, -signal.SIGKILL, -signal.SIGSEGV):
        server.start(str(code), partial(end, code))
        assert server.ended() == (str(code), code)
    server.start("a", partial(report, tmp_path, "a"))
    assert server.ended() == ("a", 0)
    assert psutil.pid_exists(number(tmp_path / "blocked"))


def test_close_terminates_what_still_runs(server, tmp_path):
    server.start("blocked", partial(block, tmp_path))
    pid = number(tmp_path / "blocked")
    server.close()
    assert (tmp_path / "left").exists()
    assert not psutil.pid_exists(pid)


def test_close_ends_a_server_that_still_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(forks, "STOP_SECONDS", 0)
    server = ForkServer(tmp_path, partial(time.sleep, 600), {})
    closing = threading.Thread(target=server.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    assert not server._process.is_alive()


def test_killed_server_is_reported_and_takes_its_processes(server, tmp_path):
    server.start("blocked", partial(block, tmp_path))
    pid = number(tmp_path / "blocked")
    os.kill(number(tmp_path / "prepared"), signal.SIGKILL)
    with pytest.raises(EOFError):
        server.ended()
    wait_for(lambda: not psutil.pid_exists(pid), seconds=10)


def test_killed_driver_takes_server_and_processes(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command, env = [sys.executable, str(script), str(tmp_path)], os.environ | {"PYTHONPATH": path}
    driver = subprocess.Popen(command, env=env)
    pids = [number(tmp_path / name) for name in ("prepared", "blocked")]
    driver.kill()
    driver.wait()
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), seconds=10)


def test_without_preparation_each_process_is_a_new_python(tmp_path):
    with closing(ForkServer(tmp_path, None, {})) as server:
        server.start("a", partial(report, tmp_path, "a"))
        assert server.ended() == ("a", 0)
    assert not (tmp_path / "prepared").exists()
