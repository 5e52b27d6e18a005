"""Functions that tests of benchmarks run in new processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def sleep_with_a_child(path: str) -> None:
    """Writes the ids of this process and of its child; ends the child when it is interrupted."""
    child = subprocess.Popen(SLEEP)
    try:
        Path(path).write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)
    finally:
        child.kill()
        child.wait()
        Path(path + ".cleaned").touch()


def sleep_through_interrupts(path: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(SLEEP)
    Path(path).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def start_a_thread(path: str, seconds: float = 0) -> str:
    """A thread that hangs keeps the process from ending; the function sleeps for so long."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)
    return "returned"


def fail(kind: str) -> None:
    raise {"memory": MemoryError("26 GiB"), "exit": SystemExit("needs a GPU")}[kind]


def end_at_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def call(module: str, function: str, args: tuple, kwargs: dict):
    """In place of `tools._run`: the functions of this module."""
    return globals()[function](*args, **kwargs)
