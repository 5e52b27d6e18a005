"""End a process when its parent has ended, whatever ended that.

The parent's signals cannot be relied on: SIGKILL runs no code, and what Linux sends on a parent's
death is asked for by torch only after seconds of imports, in which the parent may end. This module
imports nothing else, for the same reason.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children, current_process, parent_process

SECONDS = 0.5  # between two looks at the parent
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def end_with(parent: int) -> None:
    """Let this process and its children end within a second of process `parent`, which started it.

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
    """Calls end_with_spawner where it is unpickled."""

    def __reduce__(self):
        return end_with_spawner, (os.getpid(),)


@contextmanager
def spawned_end_with_this() -> Iterator[None]:
    """Let processes that are spawned meanwhile end with this one, before they import torch: they
    unpickle the configuration of this process before the function that they call.
    """
    config = current_process()._config
    config["spawner"] = _Spawner()
    try:
        yield
    finally:
        del config["spawner"]


def _end_unless(alive: Callable[[], bool]) -> None:
    threading.Thread(target=_watch, args=(alive,), daemon=True).start()


def _watch(alive: Callable[[], bool]) -> None:
    while alive():
        time.sleep(SECONDS)
    for child in active_children():
        child.kill()
    os._exit(1)
