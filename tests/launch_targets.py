"""Functions that the tests of `launch` run in new processes, which import them by name."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from edge_lib.runs.progress import progress_bar


def get_rank():
    return int(os.environ["RANK"])


def report(value):
    """Print to both streams, sum the ranks over gloo, and return the settings of this process."""
    dist.init_process_group("gloo")
    total = torch.tensor(get_rank() + 1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    print(f"out of rank {get_rank()}")
    print(f"\r50% of rank {get_rank()}\r100% of rank {get_rank()}", file=sys.stderr)
    return {
        "value": value * (get_rank() + 1),
        "sum": total,
        "omp": os.environ["OMP_NUM_THREADS"],
        "spins": os.environ["GOMP_SPINCOUNT"],
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }


def print_text(text):
    print(text)


def fail_on_rank_1():
    """Rank 0 blocks in a collective that rank 1 never joins."""
    dist.init_process_group("gloo")
    print(f"before the failure, {get_rank()}")
    if get_rank() == 1:
        raise ZeroDivisionError("rank one is broken")
    dist.barrier()


def kill_rank_1():
    dist.init_process_group("gloo")
    print(f"last line of rank {get_rank()}")
    if get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def kill_rank_0_within_a_bar():
    rank = get_rank()
    with progress_bar(f"encode {rank}", 4, " items") as bar:
        bar.update(4)
    bar = progress_bar(f"train {rank}", 8, " steps")
    bar.update(3)
    bar.set_postfix(loss=0.5)
    if rank == 0:
        print("a line")
        os.kill(os.getpid(), signal.SIGKILL)


def exit_with_code_3():
    sys.exit(3)


def return_lock():
    return threading.Lock()


def block(folder):
    """Rank 0 waits in C++ for rank 1, which sleeps; each writes its pid into ``folder``."""
    dist.init_process_group("gloo")
    (Path(folder) / f"pid-{get_rank()}").write_text(str(os.getpid()))
    if get_rank() == 1:
        time.sleep(600)
    dist.barrier()


def wait_for_each_other(folder):
    """Each of two ranks waits for what the other never sends."""
    dist.init_process_group("gloo")
    (Path(folder) / f"pid-{get_rank()}").write_text(str(os.getpid()))
    dist.recv(torch.zeros(1), src=1 - get_rank())


def kill_task_of_rank_1():
    """Rank 0 waits for rank 1, whose parent is killed."""
    dist.init_process_group("gloo")
    if get_rank() == 1:
        os.kill(os.getppid(), signal.SIGKILL)
    dist.recv(torch.zeros(1), src=1 - get_rank())
