"""What a launched process does."""

import io
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

_FAILURE_PAUSE = 0.5  # seconds; several times the agent's polling interval of 0.1 s


def _work(payload: bytes, logs: Path) -> bytes:
    """In a new process: the pickled result of the pickled function."""
    # Python's own handler would wait for a blocked collective to return. SIGINT is also what the
    # kernel sends when the parent dies (torch asks for it).
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _write_to(_log_file(logs, os.environ["RANK"]))
    try:
        fn, args = pickle.loads(payload)
        return _pickle(fn(*args), f"launch cannot send back what {_name(fn)} returned")
    except BaseException as error:
        get_error_handler().record_exception(error)
        sys.stdout.flush()
        # A peer's end breaks our collective. Waiting lets the agent see that end first, so it is
        # the peer that gets blamed, and stop us before we print what only followed from it.
        time.sleep(_FAILURE_PAUSE)
        traceback.print_exc()
        for child in multiprocessing.active_children():
            child.terminate()
        os._exit(1)  # a NCCL communicator or a user's thread can hang an ordinary exit


def _write_to(log: Path) -> None:
    """Point this process's stdout and stderr, also C++'s and its children's, to one file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout.reconfigure(line_buffering=True)


def _log_file(folder: Path, rank: int | str) -> Path:
    return folder / f"rank-{rank}.log"


class _Pickler(pickle.Pickler):
    """Copies tensors whole: memory shared by a process would go away with it."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType | type) and obj.__module__ == "__main__":
            raise pickle.PicklingError(
                f"{obj.__qualname__} is defined in __main__, which new processes do not have; "
                "functions it runs live in edge_lib, never in a cell"
            )
        return NotImplemented


def _name(fn: Callable) -> str:
    return getattr(fn, "__qualname__", repr(fn))


def _pickle(obj: Any, what: str) -> bytes:
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(obj)
    except Exception as error:  # pickle raises PicklingError, TypeError, AttributeError, ...
        raise TypeError(f"{what}: {error}") from None
    return buffer.getvalue()
