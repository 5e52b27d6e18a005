"""Locks held by this process and by others."""

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

# as `Run.create` does, without the seconds it takes to import torch
START = """
import sys
from pathlib import Path
from edge_lib.runs import lock
lock.WAIT_SECONDS = 0.1
folder = Path(sys.argv[1])
(folder / "logs").mkdir(parents=True, exist_ok=True)
try:
    lock.lock_folder(folder, int(sys.argv[2]))
except ValueError as error:
    sys.exit(str(error))
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start():
    """start(folder, node_rank) -> another process that holds the run's folder, and waits."""
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


def test_lock_names_the_holder_until_it_is_killed(start, tmp_path, monkeypatch):
    folder = tmp_path / "run [v2] a::b *"
    holder = start(folder)
    with pytest.raises(ConfigError) as caught:
        lock.lock_folder(folder, 0)
    since = r"since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
    expected = rf"{re.escape(str(folder))} is in use by process {holder.pid} on \S+ {since}; wait "
    assert re.match(expected, str(caught.value))
    assert "\n" not in str(caught.value)
    lock.lock_folder(folder, 1)  # another node of the same run

    monkeypatch.setattr(lock, "WAIT_SECONDS", 20)  # a kernel that is shutting down
    threading.Timer(0.3, holder.send_signal, [signal.SIGKILL]).start()
    lock.lock_folder(folder, 0)


def test_lock_is_held_by_a_process_through_all_its_starts(tmp_path, start):
    first = Run.create(ExperimentConfig(name="small"), "nb", tmp_path / "run")
    again = Run.create(
        ExperimentConfig(name="small"), "nb", tmp_path / "run"
    )  # the cell is run again
    assert again.folder == first.folder
    again.part("fusion-0").log(1, loss=1.0)
    with pytest.raises(AssertionError):
        start(first.folder)

    shutil.rmtree(first.folder)
    Run.create(ExperimentConfig(name="small"), "nb", tmp_path / "run")
    with pytest.raises(AssertionError):
        start(first.folder)


def test_lock_of_a_removed_folder_is_lost_to_who_starts_next(start, tmp_path):
    Run.create(ExperimentConfig(name="small"), "nb", tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    start(tmp_path / "run")
    with pytest.raises(ConfigError, match="is in use by process"):
        lock.lock_folder(tmp_path / "run", 0)


def test_lock_with_unreadable_holder_is_still_one_line(start, tmp_path):
    start(tmp_path / "run")
    (tmp_path / "run" / "logs" / "node-0.holder").write_text("{")
    with pytest.raises(ConfigError, match=r"is in use by another process; wait"):
        lock.lock_folder(tmp_path / "run", 0)


def test_hold_lock_names_its_holder_while_it_waits(start, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(lock, "REPORT_SECONDS", 0.2)
    holder, path = start(tmp_path), tmp_path / "logs" / "node-0.lock"
    threading.Timer(1, holder.kill).start()
    with lock.hold_lock(path):
        printed = capfd.readouterr().out.splitlines()
    held = f"{re.escape(str(path))} is held by process {holder.pid} on "
    assert len(printed) >= 2
    assert all(re.fullmatch(rf"{held}\S+ since .*; waiting until it ends", x) for x in printed)


def test_hold_lock_that_does_not_wait_names_its_holder(tmp_path):
    path = tmp_path / "a.lock"
    message = rf"^{re.escape(str(path))} is held by process {os.getpid()} on \S+ since "
    with lock.hold_lock(path, wait=False), pytest.raises(ConfigError, match=message):
        lock.hold_lock(path, wait=False).__enter__()
    with lock.hold_lock(path, wait=False):
        assert (tmp_path / "a.holder").exists()
    assert not (tmp_path / "a.holder").exists()


def test_hold_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(OSError, match="disk"), lock.hold_lock(tmp_path / "a.lock"):
        raise OSError("disk")
    with lock.hold_lock(tmp_path / "a.lock", wait=False):
        pass
