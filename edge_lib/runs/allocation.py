"""The tasks that one srun started, of which this process is one: the nodes of a run."""

import os
import re
import socket
from dataclasses import dataclass

from edge_lib.config import ConfigError

FIRST_PORT, NUM_PORTS = 20_000, 12_000  # of first nodes; below those that Linux gives out
# what srun sets if each task has GPUs of its own
OWN_GPUS = {"SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_GPU_BIND"}
JOINED = "edge-glass: this node joins the launches of the first, which writes the notebook"


@dataclass(frozen=True)
class Allocation:
    """rank: of this task among `size`. endpoint: host:port, of the first node and for this srun."""

    rank: int
    size: int
    endpoint: str


def find_allocation() -> Allocation | None:
    """None if srun did not start this process, or started it alone. ConfigError if tasks of one
    host see the same GPUs.
    """
    size = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if size == 1:
        return None
    per_host = tasks_per_host(os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    if per_host > 1 and not OWN_GPUS & os.environ.keys() and _num_gpus():
        raise ConfigError(
            f"srun started {per_host} tasks on a host, each of which is a node of the run and uses "
            "all GPUs of that host; start one, which starts the processes: "
            f"srun --ntasks-per-node=1 ... launch.num_processes={per_host}"
        )
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_STEP_ID"])
    port = FIRST_PORT + (37 * job + step) % NUM_PORTS
    host = first_host(os.environ["SLURM_STEP_NODELIST"])
    return Allocation(int(os.environ["SLURM_PROCID"]), size, f"{host}:{port}")


def check_nodes(num_nodes: int, node_rank: int, endpoint: str, cluster: str) -> None:
    """ConfigError if nothing says how the nodes of a launch find each other, or if they are not
    those of this srun.
    """
    if not 0 <= node_rank < num_nodes:
        raise ConfigError(f"launch.node_rank={node_rank} needs a larger launch.num_nodes")
    allocation = find_allocation()
    if allocation and num_nodes not in (1, allocation.size):
        raise ConfigError(
            f"launch.num_nodes={num_nodes}, but srun started {allocation.size} tasks, one for each "
            "node"
        )
    if num_nodes > 1 and not endpoint and cluster == "local" and not allocation:
        raise ConfigError(
            f"launch.num_nodes={num_nodes} needs launch.cluster=slurm, an srun with a task on each "
            "node, or launch.rdzv_endpoint=host:port of node 0"
        )


def _num_gpus() -> int:
    import torch  # takes seconds, which a sweep's command need not wait for

    return torch.cuda.device_count()


def tasks_per_host(counts: str) -> int:
    """The most on one host, of a list as Slurm writes it: "2(x3),1" -> 2."""
    return max(int(count.partition("(")[0]) for count in counts.split(","))


def first_host(nodes: str) -> str:
    """Of a list as Slurm writes it: "n[07-09,12]-ib,m1" -> "n07-ib"."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).split(",")[0]


def check_host(endpoint: str) -> None:
    """ConfigError if this node cannot resolve the host of host:port: torch retries for minutes."""
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"node {socket.gethostname()} cannot resolve the host name {host!r} of node 0 "
            f"({error}); set launch.rdzv_endpoint=host:port to an address of node 0 and a free port"
        ) from None
