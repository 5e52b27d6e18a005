"""The lock of a run folder, held by this process and by others."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from edge_lib.config import ROOT, ConfigError, ExperimentConfig
from edge_lib.runs import Run, lock

START = """
import sys
from edge_lib.config import ExperimentConfig
from edge_lib.runs import Run, lock
lock.WAIT_SECONDS = 0.1
launch = {"num_processes": 2, "num_nodes": 2, "node_rank": int(sys.argv[2]), "rdzv_endpoint": "h:1"}
try:
    Run.create(ExperimentConfig(name="small", launch=launch), "nb", sys.argv[1])
except ValueError as error:
    sys.exit(str(error))
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start():
    """start(folder, node_rank) -> another process that has created the run, and waits."""
    processes = []

    def start(folder, node_rank=0):
        command = [sys.executable, "-c", START, str(folder), str(node_rank)]
        pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes.append(subprocess.Popen(command, text=True, env=environment, **pipes))
        assert processes[-1].stdout.readline() == "started\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch):
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.1)


def config(node_rank=0):
    launch = {"num_processes": 2, "num_nodes": 2, "node_rank": node_rank, "rdzv_endpoint": "h:1"}
    return ExperimentConfig(name="small", launch=launch)


def test_lock_names_the_holder_until_it_is_killed(start, tmp_path, monkeypatch):
    folder = tmp_path / "run [v2] a::b *"
    holder = start(folder)
    with pytest.raises(ConfigError) as caught:
        Run.create(config(), "nb", folder)
    since = r"since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
    expected = rf"{re.escape(str(folder))} is in use by process {holder.pid} on \S+ {since}; wait "
    assert re.match(expected, str(caught.value))
    assert "\n" not in str(caught.value)
    Run.create(config(node_rank=1), "nb", folder)  # another node of the same run

    monkeypatch.setattr(lock, "WAIT_SECONDS", 20)  # a kernel that is shutting down
    threading.Timer(0.3, holder.send_signal, [signal.SIGKILL]).start()
    Run.create(config(), "nb", folder)


def test_lock_is_held_by_a_process_through_all_its_starts(tmp_path, start):
    first = Run.create(config(), "nb", tmp_path / "run")
    again = Run.create(config(), "nb", tmp_path / "run")  # the cell is run again
    assert again.folder == first.folder
    again.part("fusion-0").log(1, loss=1.0)
    with pytest.raises(AssertionError):
        start(first.folder)

    shutil.rmtree(first.folder)
    Run.create(config(), "nb", tmp_path / "run")
    with pytest.raises(AssertionError):
        start(first.folder)


def test_lock_with_unreadable_holder_is_still_one_line(start, tmp_path):
    start(tmp_path / "run")
    (tmp_path / "run" / "logs" / "node-0.json").write_text("{")
    with pytest.raises(ConfigError, match=r"is in use by another process; wait"):
        Run.create(config(), "nb", tmp_path / "run")
