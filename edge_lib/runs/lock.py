"""Locks on files: of several processes one works, and the others name it.

The operating system drops a lock when its process ends, however it ends. On a disk without such
locks filelock leaves a marker file in its place, which stays if the process is killed on another
host. Beside the lock NAME.lock, NAME.holder names the process that has it.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from edge_lib.config import ConfigError
from edge_lib.runs.files import write_json

WAIT_SECONDS = 5  # for a kernel that is shutting down
REPORT_SECONDS = 60  # between two lines of a process that waits
_held: dict[tuple[Path, int], FileLock] = {}  # by this process until it ends; path and inode


def lock_folder(folder: Path, node_rank: int) -> None:
    """Hold the folder until this process ends, which may call this again: a cell is run twice.

    Each node of a run on several nodes has a lock of its own. ConfigError names another holder.
    """
    path = folder.resolve() / "logs" / f"node-{node_rank}.lock"
    if path.exists() and (path, path.stat().st_ino) in _held:  # the folder may have been replaced
        return
    if not (lock := _acquire(path, WAIT_SECONDS)):
        raise ConfigError(
            f"{folder} is in use by {_read_holder(path)}; wait until it ends, shut down its "
            f"kernel, or choose another run_dir (lock: {path})"
        )
    _held[path, path.stat().st_ino] = lock


@contextmanager
def hold_lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock at `path`. A line a minute names the process that this waits for; without
    `wait`, a ConfigError does.
    """
    seconds = WAIT_SECONDS if wait else 0
    while not (lock := _acquire(path, seconds)):
        message = f"{path} is held by {_read_holder(path)}"
        if not wait:
            raise ConfigError(f"{message}; start this again when it has ended")
        print(f"{message}; waiting until it ends", flush=True)
        seconds = REPORT_SECONDS
    try:
        yield
    finally:
        _holder_file(path).unlink(missing_ok=True)
        lock.release()


def _acquire(path: Path, seconds: float) -> FileLock | None:
    """The lock, with this process as its holder; None if another has it for all these seconds.
    ConfigError if no file can be made there.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except Timeout:
        return None
    except OSError as error:
        raise ConfigError(f"{path.parent} cannot be written: {error.strerror}") from None
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    write_json(_holder_file(path), holder)
    return lock


def _holder_file(path: Path) -> Path:
    return path.with_suffix(".holder")


def _read_holder(path: Path) -> str:
    """The process that holds the lock at `path`, in words."""
    try:
        holder = json.loads(_holder_file(path).read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is about to write it
        return "another process"
