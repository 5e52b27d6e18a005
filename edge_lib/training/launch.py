"""Run a function on N processes (and M nodes) from a notebook cell, and get its results back.

1. The function and its arguments are pickled once, so what cannot travel is refused at once.
2. ``torch.distributed``'s elastic agent **spawns** the processes (a fork would inherit CUDA and
   bitsandbytes) with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ... set. No process group is made
   here: inside, Accelerate or torch makes one (gloo on a CPU, NCCL on GPUs) from those variables.
3. Each process writes to ``rank-<rank>.log``; local rank 0's lines also appear in the cell.
4. Results come back pickled; the first failure stops every process and is raised in the cell.
"""

import pickle
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import DEFAULT_PORT
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from edge_lib.training.launch_context import (
    _elastic_silenced,
    _inherited,
    _no_child_left,
    _sigterm_put_back,
)
from edge_lib.training.worker import _log_file, _name, _pickle, _work

_launches = count()


_stores: dict[str, torch.distributed.TCPStore] = {}  # those this node hosts, by endpoint


class WorkerError(RuntimeError):
    """A process failed; the message holds its rank, its own traceback and where its log lies."""


def launch(
    fn: Callable,
    *args: Any,
    num_processes: int = 1,
    num_nodes: int = 1,
    node_rank: int = 0,
    rdzv_endpoint: str = "localhost:0",
    log_dir: str | Path | None = None,
) -> dict[int, Any]:
    """Run ``fn(*args)`` in ``num_processes`` new processes; ``{rank: result}`` of this node's.

    With several nodes, call it alike on each with one ``rdzv_endpoint="host:port"``; node 0 hosts
    it. Ranks follow the nodes' addresses (c10d's rule), so read ``RANK`` rather than ``node_rank``.
    ``log_dir`` keeps every rank's output, over an earlier launch's; without it none is kept.
    OMP_NUM_THREADS, hence torch's threads, is an equal share of the cores unless already set, and
    they soon stop spinning when they wait (GOMP_SPINCOUNT): for one whose core another program has,
    they would for long, and a busy machine would be tens of times slower.

    Interrupting the cell, or SIGTERM, stops the processes first. Python delivers signals to the
    main thread only: off it, launch works but cannot be interrupted. One launch at a time. A
    script calls it under ``if __name__ == "__main__":``, as each new process imports the script.

    Raises TypeError for what cannot be pickled or was defined in a cell, ValueError for a bad
    number or endpoint, WorkerError when a process raises, exits or is killed.
    """
    if num_processes < 1 or not 0 <= node_rank < num_nodes:
        raise ValueError(f"{num_processes=}, {num_nodes=}, {node_rank=}: no such layout")
    if num_nodes > 1 and rdzv_endpoint.endswith(":0"):
        raise ValueError(f"{num_nodes=} needs an rdzv_endpoint 'host:port', not {rdzv_endpoint!r}")
    payload = _pickle((fn, args), f"launch cannot send {_name(fn)} and its arguments to processes")
    if num_nodes > 1 and node_rank == 0:
        _host(rdzv_endpoint)
    with (
        _sigterm_put_back(),
        tempfile.TemporaryDirectory(prefix="edge-glass-") as scratch,
        _inherited(num_processes),
        _elastic_silenced(),
        _no_child_left(),
    ):
        logs = Path(log_dir or scratch).resolve()
        logs.mkdir(parents=True, exist_ok=True)
        config = LaunchConfig(
            min_nodes=num_nodes,
            max_nodes=num_nodes,
            nproc_per_node=num_processes,
            # A finished rendezvous stays closed, so each launch needs a name of its own.
            run_id=f"edge-glass-{next(_launches)}",
            rdzv_backend="c10d",
            rdzv_endpoint=rdzv_endpoint,
            rdzv_configs={"is_host": node_rank == 0},
            # Else the machine's own name is used, which may not resolve.
            local_addr="localhost" if rdzv_endpoint.startswith("localhost") else None,
            max_restarts=0,
            start_method="spawn",
            logs_specs=_RankLogs(str(logs)),
            role="",
            log_line_prefix_template="${role_name}",  # nothing: the cell shows lines as they are
            signals_to_handle="SIGTERM",  # SIGINT stays Python's KeyboardInterrupt
            shutdown_timeout=5,
        )
        try:
            results = elastic_launch(config, _work)(payload, logs)
        except ChildFailedError as error:
            problem = _describe(error, logs, kept=log_dir is not None)
        else:
            return {rank: pickle.loads(result) for rank, result in sorted(results.items())}
    # Raised inside, it would keep the agent with its sockets and semaphores in its traceback.
    raise WorkerError(problem)


def _host(endpoint: str) -> None:
    """Serve ``endpoint`` for good. A store of each launch's own would close under a node that is
    already at the next launch; elastic finds ours and shares it."""
    if endpoint not in _stores:
        address = parse_rendezvous_endpoint(endpoint, default_port=DEFAULT_PORT)
        _stores[endpoint] = torch.distributed.TCPStore(
            *address, is_master=True, multi_tenant=True, wait_for_workers=False
        )


class _RankLogs(LogsSpecs):
    """Tells elastic where each rank logs; torch's own redirects keep two files and skip macOS."""

    @property
    def root_log_dir(self) -> str:
        return self._root_log_dir

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        logs = {i: _log_file(Path(self._root_log_dir), env["RANK"]) for i, env in envs.items()}
        errors = {i: log.with_suffix(".error.json") for i, log in logs.items()}
        # An earlier launch's lines would be shown, and its error blamed.
        for file in (*logs.values(), *errors.values()):
            file.unlink(missing_ok=True)
        for i, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = str(errors[i])
        nowhere = dict.fromkeys(envs, "")  # each process points its own output
        return LogsDest(
            stdouts=nowhere,
            stderrs=nowhere,
            tee_stdouts={0: str(logs[0])},
            error_files={i: str(error) for i, error in errors.items()},
        )


def _describe(error: ChildFailedError, logs: Path, kept: bool) -> str:
    """The first failure: its traceback or, for an end without one, the last lines it wrote."""
    rank, failure = error.get_first_failure()
    log = _log_file(logs, rank)
    if isinstance(failure.message, dict):
        cause, text = failure.message["message"], failure.message["extraInfo"]["py_callstack"]
    else:
        name = failure.signal_name() if failure.exitcode < 0 else "no Python exception"
        hint = ", often for lack of memory" if name == "SIGKILL" else ""
        cause = f"ended with exit code {failure.exitcode} ({name}{hint}); its last lines:"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else ["(none)"]
        text = "\n".join(lines[-20:])
    where = f"log: {log}" if kept else "log: not kept, give log_dir to keep every rank's"
    return f"rank {rank}: {cause}\n\n{text}\n{where}"
