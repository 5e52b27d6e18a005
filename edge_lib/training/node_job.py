"""A task of a Slurm job: a node's part of a launch."""

import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException

from edge_lib.config.launch import ANY_PORT
from edge_lib.runs.allocation import Allocation, check_host, find_allocation
from edge_lib.runs.files import whole_file
from edge_lib.runs.progress import headless_environment
from edge_lib.training.launch_report import WorkerError, as_worker_error
from edge_lib.training.node import Node, host_store, run_node

FAILURE_SECONDS = 10  # for the failures of the other nodes: Slurm kills them after the first one's


@dataclass(frozen=True)
class NodeJob:
    """Runs in each task of a job and writes what the node's processes returned, or the failure.

    paths: of imports, as where the job was submitted. endpoint: host:port of the first node; "":
        as the environment says.
    """

    payload: bytes
    num_processes: int
    num_nodes: int
    log_dir: Path | None
    paths: tuple[str, ...]
    endpoint: str

    @property
    def folder(self) -> Path:
        """For the files of the job and of its tasks."""
        return self.log_dir / "slurm"

    def __call__(self) -> None:
        sys.path += [path for path in self.paths if path not in sys.path]
        allocation = find_allocation() or Allocation(0, 1, ANY_PORT)
        outcome_file(self.folder, allocation.rank).unlink(missing_ok=True)  # of an earlier start
        with headless_environment():  # Slurm hands on the notebook's
            outcome = self._run(allocation)
        with whole_file(outcome_file(self.folder, allocation.rank)) as temporary:
            temporary.write_bytes(pickle.dumps(outcome))
        if isinstance(outcome, WorkerError):
            self._wait_for_others(allocation.size)
            raise outcome

    def _run(self, allocation: Allocation) -> dict[int, Any] | WorkerError:
        endpoint, is_first = self.endpoint or allocation.endpoint, allocation.rank == 0
        node = Node(allocation.rank, allocation.size, endpoint, launch=0, hosts=is_first)
        try:
            if allocation.size > 1:
                check_host(endpoint)
                if is_first:
                    host_store(endpoint)
            return run_node(self.payload, self.num_processes, node, self.log_dir)
        except SignalException:  # Slurm ends the job
            raise
        except Exception as error:
            return as_worker_error(error, node.rank)

    def _wait_for_others(self, size: int) -> None:
        end = time.monotonic() + FAILURE_SECONDS
        files = [outcome_file(self.folder, rank) for rank in range(size)]
        while time.monotonic() < end and not all(file.exists() for file in files):
            time.sleep(0.1)


def outcome_file(folder: Path, rank: int) -> Path:
    """What the processes of a node returned, or how they failed."""
    return folder / f"node-{rank}.pkl"
