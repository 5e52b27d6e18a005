"""Experiments that tests of faults run in new processes, which import them by name.

An experiment is a function and its arguments, which a launch takes.
"""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context

from edge_lib.experiments.align import measure_aligner
from edge_lib.features.extract import extract_features
from edge_lib.runs import Run, lock
from edge_lib.training import node
from edge_lib.training.launch import launch

NOBODY = 65534
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def in_new_process(function, *arguments):
    """What `function` returns or raises; BrokenProcessPool if it is killed. The process is a fork
    of one that has imported the library.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        return pool.submit(function, *arguments).result()


def run_launched(processes, logs, seconds, die_at, experiment):
    """Launch an experiment; returns how many writes rank 0 made.

    seconds: when to kill all its processes. die_at: (rank, write, number) before which of its
    writes a process is killed, alone or with all others.
    """
    os.setpgid(0, 0)
    node.START_METHOD = "fork"
    if seconds is not None:
        threading.Thread(target=kill_group, args=(seconds,), daemon=True).start()
    arguments = run_counted, die_at, *experiment
    return launch(*arguments, num_processes=processes, log_dir=logs)[0]


def kill_group(seconds):
    time.sleep(seconds)
    os.killpg(0, signal.SIGKILL)


def run_counted(die_at, function, *arguments):
    numbers, done = count(), []

    def watch(event, details):
        if event in CHANGES or (event == "open" and (details[2] or 0) & WRITE_FLAGS):
            done.append(next(numbers))
            if die_at and die_at[:2] == (os.environ["RANK"], done[-1]):
                os.killpg(0, signal.SIGKILL) if die_at[2] else os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    function(*arguments)
    return len(done)


def measure(config, folder):
    """What a point of a sweep does, in this process: encode, train, test. Returns its metrics."""
    run = Run.create(config, "align", folder)
    return measure_aligner(config, run.folder)


def measure_launched(config, folder):
    """What notebook 01 does: the same in launched processes, whose logs are kept in the run."""
    node.START_METHOD = "fork"
    run = Run.create(config, "align", folder)
    extract_features(config.data, config.feature_spec, log_dir=run.logs / "encode")
    return launch(measure_aligner, config, run.folder, log_dir=run.logs / "train")[0]


def as_another_user(function, *arguments):
    "".encode("latin1")  # Python's own library may be this user's alone
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    return function(*arguments)


def measure_with_clock(hours, *arguments):
    """`measure`, while the clock goes back at every tenth look at it."""
    now, looks = time.time_ns, count()
    time.time_ns = lambda: now() - 3600 * hours * 10**9 * (next(looks) // 10)
    time.time = lambda: time.time_ns() / 1e9
    return measure(*arguments)


def measure_late(seconds, wait_seconds, *arguments):
    """`measure` after some seconds, by a driver that waits a while for another one."""
    lock.WAIT_SECONDS = wait_seconds
    time.sleep(seconds)
    return measure(*arguments)
