"""Measurements in processes of their own: results, errors, and what takes too long."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from bench_targets import (
    call,
    sleep_through_interrupts,
    sleep_with_a_child,
    start_a_thread,
)
from sweeps import wait_for

from edge_lib.bench import tools
from edge_lib.config import ROOT

PARENT = """
import sys
from bench_targets import sleep_with_a_child
from edge_lib.bench.tools import in_new_process
in_new_process(sleep_with_a_child, sys.argv[1])
"""


def written(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def running(path: Path) -> list[int]:
    """The processes that a function wrote down and that still run."""
    return [int(pid) for pid in path.read_text().split() if _runs(int(pid))]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Where a function writes down its processes, upon which its time is over."""
    path, wait = tmp_path / "pids", tools.wait

    def wait_for_path(futures, _):
        wait_for(lambda: written(path))
        return wait(futures, 0)

    monkeypatch.setattr(tools, "wait", wait_for_path)
    return path


@pytest.fixture
def in_targets(monkeypatch):
    """`measure_apart` looks for functions in bench_targets."""
    monkeypatch.setattr(tools, "_run", call)


def test_new_process_gives_the_result_and_uses_two_threads():
    assert tools.in_new_process(torch.get_num_threads, timeout=600) == 2
    assert tools.in_new_process(os.getpid) != os.getpid()


def test_function_that_takes_too_long_is_interrupted_and_cleans_up(path):
    with pytest.raises(TimeoutError, match="not finished after 9 s"):
        tools.in_new_process(sleep_with_a_child, str(path), timeout=9)
    assert Path(f"{path}.cleaned").exists()
    assert running(path) == []


@pytest.mark.parametrize("function", [sleep_through_interrupts, start_a_thread])
def test_process_that_does_not_end_is_killed_with_its_own(path, monkeypatch, function):
    monkeypatch.setattr(tools, "GRACE", 0.5)
    seconds = [600] if function is start_a_thread else []
    with pytest.raises(TimeoutError):
        tools.in_new_process(function, str(path), *seconds, timeout=9)
    wait_for(lambda: not running(path), seconds=20)


def test_result_does_not_wait_for_a_thread_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "GRACE", 0.5)
    path = tmp_path / "pids"
    assert tools.in_new_process(start_a_thread, str(path)) == "returned"
    wait_for(lambda: not running(path), seconds=20)


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    path, folders = tmp_path / "pids", f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    env = os.environ | {"PYTHONPATH": folders}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(path)], env=env)
    wait_for(lambda: written(path))
    parent.kill()
    parent.wait()
    wait_for(lambda: not running(path), seconds=5)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("fail", ["memory"], "MemoryError: 26 GiB"),
        ("fail", ["exit"], "SystemExit: needs a GPU"),
        ("end_at_once", [], "BrokenProcessPool"),
    ],
    ids=["memory", "exit", "killed"],
)
def test_failure_is_a_number_like_result(in_targets, function, arguments, message):
    result = tools.measure_apart("here", function, *arguments, timeout=600)
    assert result["error"].startswith(message)
    assert result["seconds.total"] > 0


def test_timeout_is_a_number_like_result(in_targets, path):
    result = tools.measure_apart("here", "sleep_with_a_child", str(path), timeout=9)
    assert result["error"] == "TimeoutError: not finished after 9 s"


def test_missing_module_is_an_error_of_that_benchmark():
    result = tools.measure_apart("no_such_module", "anything", timeout=60)
    assert "No module named 'edge_lib.bench.no_such_module'" in result["error"]
