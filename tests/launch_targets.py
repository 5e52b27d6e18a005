"""What the tests of ``edge_lib.launch`` run in new processes, which import it by name."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist


def _rank() -> int:
    return int(os.environ["RANK"])


def report(value):
    """Talk on both streams, add up the ranks over gloo, and tell how this process is set up."""
    dist.init_process_group("gloo")
    total = torch.tensor(_rank() + 1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    print(f"out of rank {_rank()}")
    print(f"\r50% of rank {_rank()}\r100% of rank {_rank()}", file=sys.stderr)
    return {
        "value": value * (_rank() + 1),
        "sum": total,
        "omp": os.environ["OMP_NUM_THREADS"],
        "spins": os.environ["GOMP_SPINCOUNT"],
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }


def rank():
    return _rank()


def say(word):
    print(word)


def fail_on_rank_1():
    """Rank 0 blocks in a collective that rank 1 never joins."""
    dist.init_process_group("gloo")
    print(f"before the failure, {_rank()}")
    if _rank() == 1:
        raise ZeroDivisionError("rank one is broken")
    dist.barrier()


def die_on_rank_1():
    dist.init_process_group("gloo")
    print(f"last words of rank {_rank()}")
    if _rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def leave():
    sys.exit(3)


def a_lock():
    return threading.Lock()


def block(folder):
    """Rank 0 waits in C++ for a rank 1 that sleeps; each names its pid in ``folder``."""
    dist.init_process_group("gloo")
    (Path(folder) / f"pid-{_rank()}").write_text(str(os.getpid()))
    if _rank() == 1:
        time.sleep(600)
    dist.barrier()
