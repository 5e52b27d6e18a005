"""Launches from a kernel that was forked for a point: forked as well where that is safe."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from edge_lib.config import ROOT
from edge_lib.runs import forked_kernel
from edge_lib.training.forking import start_method

THREADS = """
import torch
from edge_lib.runs import forked_kernel
from edge_lib.training.forking import start_method
forked_kernel.forked = True
print(start_method("spawn"))
torch.set_num_threads(2)
torch.ones(2000, 2000).exp()
print(start_method("spawn"))
"""


@pytest.mark.parametrize(
    ("forked", "gpu", "method"),
    [(True, False, "fork"), (True, True, "spawn"), (False, False, "spawn")],
)
def test_processes_are_forked_from_a_forked_kernel_without_gpus(monkeypatch, forked, gpu, method):
    monkeypatch.setattr(forked_kernel, "forked", forked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("edge_lib.training.forking._computing_threads", lambda: 0)
    assert start_method("spawn") == method


def test_processes_are_spawned_once_threads_have_computed():
    command = [sys.executable, "-c", THREADS]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    assert printed.split() == ["fork", "spawn"]


def test_threads_that_end_while_they_are_counted_are_left_out(monkeypatch):
    read, gone = Path.read_text, iter([FileNotFoundError(), ProcessLookupError()])

    def fail_twice(path):
        if path.parent.parent.name == "task" and (error := next(gone, None)):
            raise error
        return read(path)

    ended = [threading.Event() for _ in range(2)]
    for event in ended:
        threading.Thread(target=event.wait, daemon=True).start()
    monkeypatch.setattr(Path, "read_text", fail_twice)
    monkeypatch.setattr(forked_kernel, "forked", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert start_method("spawn") in ("fork", "spawn")
    assert next(gone, None) is None
    for event in ended:
        event.set()


def test_processes_are_forked_while_threads_of_python_come_and_go(monkeypatch):
    monkeypatch.setattr(forked_kernel, "forked", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("edge_lib.training.forking._computing_threads", lambda: -1)
    assert start_method("spawn") == "fork"
