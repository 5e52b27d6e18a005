"""Functions of new processes, which measure the memory, files and threads that these hold."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import psutil

from edge_lib.config import load_config
from edge_lib.runs.points import make_points
from edge_lib.runs.sweep import run_here
from edge_lib.training.fit import Trainer

KB_PER_TURN = 4  # a leak that is seen


def held(process=None):
    """Bytes in memory, open files and threads of a process, by default this one.

    Without pages of files, which the system drops when it needs room: of an encoder's weights they
    are read when they are first used, as the rows of words that no text had before.
    """
    process = process or psutil.Process()
    with process.oneshot():
        memory = process.memory_info()
        return memory.rss - memory.shared, process.num_fds(), process.num_threads()


def growth(measured):
    """KB a turn, files and threads that came between the second and the last quarter of turns."""
    quarter = len(measured) // 4
    early, late = np.array(measured[quarter : 2 * quarter]), np.array(measured[-quarter:])
    size, files, threads = np.median(late, axis=0) - np.median(early, axis=0)
    return size / 1000 / (len(measured) - 2 * quarter), files, threads


def in_new_process(function, *args):
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        return pool.submit(function, *args).result()


def train_steps(train, *args, leak=0):
    """What is held after each step of a training. leak: bytes that each step adds."""
    step, measured, leaked = Trainer.train_step, [], []

    def measured_step(self, batches):
        loss = step(self, batches)
        leaked.append(np.ones(leak, np.uint8))
        measured.append(held())
        return loss

    Trainer.train_step = measured_step
    train(*args)
    return measured


def train_leaking(train, *args):
    return train_steps(train, *args, leak=1000 * KB_PER_TURN * 2)


def sweep_points(path):
    """What is held after each point of a sweep, which succeeds."""
    points, measured = make_points(path), []
    for point, cause in run_here(points, load_config(path).sweep):
        assert point.state == "done", cause
        measured.append(held())
    return measured
