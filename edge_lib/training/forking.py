"""Fork a launch's processes from the kernel of a sweep's point, which has imported the library.

A fork has no thread but the one that called it, and no CUDA. So the kernel must not have computed
with several threads, and must see no GPU; otherwise the processes are spawned, as everywhere else:
an open notebook's kernel would fork the code from before an edit.
"""

import threading
from contextlib import suppress
from pathlib import Path

import torch

from edge_lib.runs import forked_kernel


def start_method(default: str) -> str:
    """`fork` where it is safe and saves the imports, else `default`."""
    if not forked_kernel.forked or torch.cuda.is_available() or _computing_threads() > 0:
        return default
    return "fork"


def _computing_threads() -> int:
    """How many threads OpenMP or other code has started: not Python, and without a name."""
    own, names = Path("/proc/self/comm").read_text(), []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            names.append((task / "comm").read_text())
    return names.count(own) - threading.active_count()
