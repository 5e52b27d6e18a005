"""A run folder's lock: of several starts of one config, one works in the folder.

The operating system drops it when the process ends, however it ends. On a disk without such locks
filelock leaves a marker file in its place, which a process that was killed on another host keeps.
"""

import json
import os
import socket
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from edge_lib.config import ConfigError
from edge_lib.runs.files import write_json

WAIT_SECONDS = 5  # for a kernel that is shutting down
_held: dict[tuple[Path, int], FileLock] = {}  # by this process until it ends; path and inode


def lock_folder(folder: Path, node_rank: int) -> None:
    """Hold the folder until this process ends, which may call this again: a cell is run twice.

    Each node of a run on several nodes has a lock of its own. ConfigError names another holder.
    """
    path = folder.resolve() / "logs" / f"node-{node_rank}.lock"
    if path.exists() and (path, path.stat().st_ino) in _held:  # the folder may have been replaced
        return
    lock, holder = FileLock(path), path.with_suffix(".json")
    try:
        lock.acquire(timeout=WAIT_SECONDS)
    except Timeout:
        raise ConfigError(
            f"{folder} is in use by {_read_holder(holder)}; wait until it ends, shut down its "
            f"kernel, or choose another run_dir (lock: {path})"
        ) from None
    _held[path, path.stat().st_ino] = lock
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})


def _read_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):  # it is about to write it
        return "another process"
