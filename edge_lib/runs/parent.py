"""End a process when its parent has ended, whatever ended that.

The parent's signals cannot be relied on: SIGKILL runs no code, and what Linux sends on a parent's
death is asked for by torch only after seconds of imports, in which the parent may end. This module
imports nothing else when it is imported, for the same reason.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import current_process, parent_process

SECONDS = 0.5  # between two looks at the parent
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def end_with(parent: int) -> None:
    """Let this process and all that it started end within a second of process `parent`, which
    started it.

    A parent that has already ended counts, as this process then has another one.
    """
    _end_unless(lambda: os.getppid() == parent)


def end_with_parent(_number: int = 0) -> None:
    """`end_with` in a process of multiprocessing; a DataLoader numbers its own."""
    parent, starter = parent_process(), os.getppid()  # differ if a fork server started this one
    _end_unless(lambda: parent.is_alive() and os.getppid() == starter)


def end_with_spawner(parent: int) -> None:
    """`end_with`, also while the interpreter is busy: Linux kills this process, without its
    children, when the thread of `parent` that started it ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    end_with(parent)


class _Spawner:
    """Calls a function with the id of this process where it is unpickled."""

    def __init__(self, function: Callable[[int], None]):
        self.function = function

    def __reduce__(self):
        return self.function, (os.getpid(),)


@contextmanager
def spawned_end_with_this(start: Callable[[int], None] = end_with_spawner) -> Iterator[None]:
    """Let processes that are spawned meanwhile end with this one, before they import torch: they
    unpickle the configuration of this process before the function that they call.

    start: what such a process calls; `end_with` where it starts others, which then end as well.
    """
    config = current_process()._config
    config["spawner"] = _Spawner(start)
    try:
        yield
    finally:
        del config["spawner"]


def _end_unless(alive: Callable[[], bool]) -> None:
    threading.Thread(target=_watch, args=(alive,), daemon=True).start()


def _watch(alive: Callable[[], bool]) -> None:
    while alive():
        time.sleep(SECONDS)
    try:
        _kill_children()
    finally:
        os._exit(1)


def _kill_children() -> None:
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
