"""Run a function in N processes (on M nodes) from a notebook cell and return its results.

1. The function and its arguments are pickled once, so an object that cannot be sent fails early.
2. ``torch.distributed``'s elastic agent **spawns** the processes with RANK, WORLD_SIZE, LOCAL_RANK,
   MASTER_ADDR, ... set. Accelerate or torch then creates the process group from these variables
   (gloo on a CPU, NCCL on GPUs).
3. Each process writes to ``rank-<rank>.log``; the lines of local rank 0 also appear in the cell,
   and in an open notebook its progress bars as well.
4. Results come back pickled; the first failure stops every process and is raised in the cell.
"""

import sys
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Literal

from edge_lib.config.launch import ANY_PORT
from edge_lib.runs.allocation import check_host, check_nodes
from edge_lib.runs.nodes import find_nodes
from edge_lib.training.launch_nodes import launch_on_nodes
from edge_lib.training.launch_report import WorkerError
from edge_lib.training.launch_slurm import launch_on_slurm
from edge_lib.training.node import Node, host_store, run_node
from edge_lib.training.node_job import NodeJob
from edge_lib.training.worker import digest_of, dump_pickle, name_of

__all__ = ["WorkerError", "launch"]

_numbers = count()  # of this process's launches


def launch(
    fn: Callable,
    *args: Any,
    num_processes: int = 1,
    num_nodes: int = 1,
    node_rank: int = 0,
    rdzv_endpoint: str = ANY_PORT,
    cluster: Literal["local", "slurm"] = "local",
    slurm: Mapping[str, Any] | None = None,
    log_dir: str | Path | None = None,
) -> dict[int, Any]:
    """Run ``fn(*args)`` in ``num_processes`` new processes; returns this node's {rank: result}.

    With ``cluster="slurm"`` they run as a job of ``num_nodes`` tasks, one a node, and the results
    are those of all ranks (see `launch_slurm`). The tasks that one srun started are the nodes of a
    launch, which all of them make or, in `Run.create`, join. Other nodes each make the same call,
    with one ``rdzv_endpoint="host:port"``; node 0 hosts it. c10d assigns ranks by node address, so
    read ``RANK`` rather than ``node_rank``.

    ``log_dir`` keeps the output of every rank and replaces that of an earlier launch; without it
    no log is kept.
    OMP_NUM_THREADS, hence torch's thread count, is an equal share of the cores unless already set.
    GOMP_SPINCOUNT shortens the busy wait of OpenMP threads: on a machine that also runs other
    programs the default wait makes them tens of times slower.

    Interrupting the cell, or SIGTERM, stops the processes first. Python delivers signals to the
    main thread only, so a launch in another thread cannot be interrupted. Run one launch at a
    time. A script calls it under ``if __name__ == "__main__":``, as each new process imports the
    script.

    Raises TypeError for objects that cannot be pickled or are defined in a cell, ValueError for a
    wrong number or endpoint, WorkerError when a process raises, exits or is killed, and
    KeyboardInterrupt, which a notebook shows as one line.
    """
    endpoint = "" if rdzv_endpoint == ANY_PORT else rdzv_endpoint
    nodes = find_nodes(endpoint)
    if num_processes < 1:
        raise ValueError(f"{num_processes=}: needs 1 or more, on each of {num_nodes=}")
    check_nodes(num_nodes, node_rank, endpoint, cluster)
    payload = dump_pickle((fn, args), f"launch cannot send {name_of(fn)} and its arguments")
    logs = Path(log_dir).resolve() if log_dir else None
    if nodes:
        return launch_on_nodes(nodes, payload, num_processes, logs)
    if cluster == "slurm":
        job = NodeJob(payload, num_processes, num_nodes, logs, tuple(sys.path), endpoint)
        digest = digest_of(fn, args, num_processes, num_nodes)
        return launch_on_slurm(job, digest, slurm or {})
    if num_nodes > 1:
        check_host(endpoint)
        if node_rank == 0:
            host_store(endpoint)
    node = Node(node_rank, num_nodes, rdzv_endpoint, next(_numbers), hosts=node_rank == 0)
    return run_node(payload, num_processes, node, logs)
