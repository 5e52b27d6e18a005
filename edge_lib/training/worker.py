"""The code that a launched process runs."""

import hashlib
import io
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from edge_lib.config.base import Section
from edge_lib.runs.forks import redirect_output
from edge_lib.runs.parent import end_with_parent
from edge_lib.runs.relay import relay_bars

FAILURE_PAUSE = 0.5  # seconds; several times the agent's polling interval of 0.1 s
STATUS, BARS = "status", "bars"  # files that local rank 0 writes for its parent
_status_file: Path | None = None


def run_worker(payload: bytes, logs: Path, scratch: Path) -> bytes:
    """In a new process: unpickle a function and its arguments, call it, pickle its result."""
    global _status_file
    end_with_parent()
    if os.environ["LOCAL_RANK"] == "0":
        _status_file = scratch / STATUS
        relay_bars(scratch / BARS)
    # Python's own handler would only run once a blocked collective returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # elastic's, in a fork
    # Slurm sends it before a time limit; the job's main process has it requeued.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    redirect_output(log_path(logs, os.environ["RANK"]))
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # in a fork, those of its kernel
    sys.stdout.reconfigure(line_buffering=True)
    try:
        fn, args = pickle.loads(payload)
        return dump_pickle(fn(*args), f"launch cannot send back what {name_of(fn)} returned")
    except BaseException as error:
        _record(error)
        # When another rank dies, the collective that this rank waits in fails as well. During the
        # pause the agent sees the first failure, reports that one, and stops this process before
        # it prints an error that is only a consequence.
        time.sleep(FAILURE_PAUSE)
        with suppress(OSError):  # the log's disk is full
            traceback.print_exc()
        for child in multiprocessing.active_children():
            child.terminate()
        os._exit(1)  # a NCCL communicator or a user's thread can block a normal exit


def _record(error: BaseException) -> None:
    """Write the error to a file that the agent reads, and what was printed to the log; to none of
    them if the disk is full, as a part of the file would be an error of its own.
    """
    try:
        get_error_handler().record_exception(error)
        sys.stdout.flush()
    except OSError:
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).unlink(missing_ok=True)


def set_interrupt_message(message: str) -> None:
    """Set the line that the notebook shows if this launch is interrupted from now on.

    Only local rank 0 of a launch writes it; in any other process nothing happens.
    """
    if _status_file:
        _status_file.write_text(message)


def log_path(folder: Path, rank: int | str) -> Path:
    return folder / f"rank-{rank}.log"


class _Pickler(pickle.Pickler):
    """Copies tensors; shared memory would disappear with the process that owns it."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType | type) and obj.__module__ == "__main__":
            raise pickle.PicklingError(
                f"{obj.__qualname__} is defined in __main__, which a new process cannot import; "
                "define it in an imported module, not in a notebook cell"
            )
        return NotImplemented


class _DigestPickler(pickle.Pickler):
    """Sections as JSON: their pickles list the keys that were set in any order."""

    def reducer_override(self, obj: Any) -> Any:
        return (type(obj), (obj.model_dump_json(),)) if isinstance(obj, Section) else NotImplemented


def digest_of(*values: Any) -> str:
    """Most equal values have equal digests, also in another process, and different ones never."""
    buffer = io.BytesIO()
    _DigestPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(values)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def name_of(fn: Callable) -> str:
    return getattr(fn, "__qualname__", repr(fn))


def dump_pickle(obj: Any, problem: str) -> bytes:
    """`obj`, pickled. Raises TypeError "<problem>: <reason>"."""
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(obj)
    except Exception as error:  # pickle raises PicklingError, TypeError, AttributeError, ...
        raise TypeError(f"{problem}: {error}") from None
    return buffer.getvalue()
