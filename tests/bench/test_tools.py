"""Measurements in processes of their own: results, errors, and what takes too long."""

import os
import time
from pathlib import Path

import psutil
import pytest
from bench_targets import call, sleep_through_interrupts, sleep_with_a_child

from edge_lib.bench import tools

TIMEOUT = 4  # seconds: time enough to start a process, also on a busy machine


def running(path: Path) -> list[int]:
    """The processes that a function wrote down and that still run."""
    return [int(pid) for pid in path.read_text().split() if _runs(int(pid))]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def in_targets(monkeypatch):
    """`measure_apart` looks for functions in bench_targets."""
    monkeypatch.setattr(tools, "_run", call)


def test_new_process_gives_the_result():
    assert tools.in_new_process(os.path.join, "a", "b", timeout=60) == "a/b"
    assert tools.in_new_process(os.getpid) != os.getpid()


def test_function_that_takes_too_long_is_interrupted_and_cleans_up(tmp_path):
    path = tmp_path / "pids"
    with pytest.raises(TimeoutError, match="not finished after 4 s"):
        tools.in_new_process(sleep_with_a_child, str(path), timeout=TIMEOUT)
    assert (tmp_path / "pids.cleaned").exists()
    assert running(path) == []


def test_function_that_ignores_interrupts_is_killed_with_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "GRACE", 0.5)
    path = tmp_path / "pids"
    with pytest.raises(TimeoutError):
        tools.in_new_process(sleep_through_interrupts, str(path), timeout=TIMEOUT)
    deadline = time.monotonic() + 60
    while running(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running(path) == []


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("fail", ["memory"], "MemoryError: 26 GiB"),
        ("fail", ["exit"], "SystemExit: needs a GPU"),
        ("end_at_once", [], "BrokenProcessPool"),
        ("sleep_with_a_child", ["{folder}/pids"], "TimeoutError: not finished after 4 s"),
    ],
    ids=["memory", "exit", "killed", "timeout"],
)
def test_failure_is_a_number_like_result(in_targets, tmp_path, function, arguments, message):
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    result = tools.measure_apart("here", function, *arguments, timeout=TIMEOUT)
    assert result["error"].startswith(message)
    assert result["seconds.total"] > 0


def test_missing_module_is_an_error_of_that_benchmark():
    result = tools.measure_apart("no_such_module", "anything", timeout=60)
    assert "No module named 'edge_lib.bench.no_such_module'" in result["error"]
