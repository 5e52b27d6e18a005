"""Processes end with their parent, in time and when it ended before they looked."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from sweeps import wait_for

from edge_lib.config import ROOT
from edge_lib.runs.parent import SECONDS, end_with_parent

# a parent that starts a child, which starts a child of multiprocessing; each prints its pid
CHILD = """
import multiprocessing, os, sys, time
from edge_lib.runs.parent import end_with, end_with_parent

def wait():
    end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)

if len(sys.argv) > 2:
    while os.getppid() == int(sys.argv[1]):
        time.sleep(0.05)
end_with(int(sys.argv[1]))
multiprocessing.get_context("fork").Process(target=wait).start()
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, and children inherit that
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), *sys.argv[2:]])
print("started", flush=True)
time.sleep(600)
"""


def start_parent(*arguments):
    command = [sys.executable, "-c", PARENT, CHILD, *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert parent.stdout.readline() == "started\n"
    return parent


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda n: n.name)
def test_children_end_with_their_parent(number):
    parent = start_parent()
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(number)
    parent.wait()
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), seconds=5)


def test_child_of_a_parent_that_has_ended_ends_as_well():
    parent = start_parent("late")
    parent.kill()
    # both pids may be printed before the child looks for its parent; then the pipe is closed
    assert len(parent.communicate(timeout=20)[0].split()) <= 2


def test_process_of_a_fork_server_goes_on_while_its_parent_lives():
    context = multiprocessing.get_context("forkserver")
    ends, ours = context.Pipe(duplex=False)
    child = context.Process(target=send_when_watched, args=(ours,))
    child.start()
    assert ends.poll(30)
    assert ends.recv() == "alive"
    child.join()


def send_when_watched(end):
    end_with_parent()
    time.sleep(3 * SECONDS)
    end.send("alive")
