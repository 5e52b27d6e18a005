"""Run a function in N processes (on M nodes) from a notebook cell and return its results.

1. The function and its arguments are pickled once, so an object that cannot be sent fails early.
2. ``torch.distributed``'s elastic agent **spawns** the processes with RANK, WORLD_SIZE, LOCAL_RANK,
   MASTER_ADDR, ... set. Accelerate or torch then creates the process group from these variables
   (gloo on a CPU, NCCL on GPUs).
3. Each process writes to ``rank-<rank>.log``; the lines of local rank 0 also appear in the cell,
   and in an open notebook its progress bars as well.
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
    bars_drawn,
    child_environment,
    leftover_children_killed,
    sigterm_restored,
    silent_elastic,
)
from edge_lib.training.worker import BARS, STATUS, dump_pickle, log_path, name_of, run_worker

START_METHOD = "spawn"  # a fork would inherit CUDA and bitsandbytes state
_launch_numbers = count()
_stores: dict[str, torch.distributed.TCPStore] = {}  # hosted by this process, by endpoint


class WorkerError(RuntimeError):
    """A launched process failed. The message has its rank, its traceback and its log file."""


def launch(
    fn: Callable,
    *args: Any,
    num_processes: int = 1,
    num_nodes: int = 1,
    node_rank: int = 0,
    rdzv_endpoint: str = "localhost:0",
    log_dir: str | Path | None = None,
) -> dict[int, Any]:
    """Run ``fn(*args)`` in ``num_processes`` new processes; returns this node's {rank: result}.

    On several nodes, make the same call on each, with one ``rdzv_endpoint="host:port"``; node 0
    hosts it. c10d assigns ranks by node address, so read ``RANK`` rather than ``node_rank``.
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
    if num_processes < 1 or not 0 <= node_rank < num_nodes:
        raise ValueError(
            f"{num_processes=}, {num_nodes=}, {node_rank=}: needs num_processes >= 1 and "
            "0 <= node_rank < num_nodes"
        )
    if num_nodes > 1 and rdzv_endpoint.endswith(":0"):
        raise ValueError(f"{num_nodes=} needs an rdzv_endpoint 'host:port', not {rdzv_endpoint!r}")
    payload = dump_pickle((fn, args), f"launch cannot send {name_of(fn)} and its arguments")
    if num_nodes > 1 and node_rank == 0:
        _host_store(rdzv_endpoint)
    with (
        sigterm_restored(),
        tempfile.TemporaryDirectory(prefix="edge-glass-") as folder,
        child_environment(num_processes),
        silent_elastic(),
        leftover_children_killed(),
        bars_drawn((scratch := Path(folder)) / BARS),
    ):
        logs = Path(log_dir or scratch).resolve()
        logs.mkdir(parents=True, exist_ok=True)
        config = _elastic_config(logs, num_processes, num_nodes, node_rank, rdzv_endpoint)
        try:
            results = elastic_launch(config, run_worker)(payload, logs, scratch)
            return {rank: pickle.loads(result) for rank, result in sorted(results.items())}
        except ChildFailedError as error:
            failure = WorkerError(_describe_failure(error, logs, kept=log_dir is not None))
        except KeyboardInterrupt:
            failure = _interrupt(scratch / STATUS)
    # Raised in the except clauses, the error's traceback would keep the agent's sockets open.
    raise failure


def _elastic_config(
    logs: Path, num_processes: int, num_nodes: int, node_rank: int, endpoint: str
) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=num_nodes,
        max_nodes=num_nodes,
        nproc_per_node=num_processes,
        # A finished rendezvous stays closed, so each launch needs its own name.
        run_id=f"edge-glass-{next(_launch_numbers)}",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"is_host": node_rank == 0},
        # The default is the machine's own name, which may not resolve.
        local_addr="localhost" if endpoint.startswith("localhost") else None,
        max_restarts=0,
        start_method=START_METHOD,
        logs_specs=_RankLogs(str(logs)),
        role="",
        log_line_prefix_template="${role_name}",  # empty: the cell shows lines without a prefix
        signals_to_handle="SIGTERM",  # SIGINT keeps raising KeyboardInterrupt
        shutdown_timeout=5,
    )


def _interrupt(status_file: Path) -> KeyboardInterrupt:
    """A KeyboardInterrupt that IPython shows as one line, without a traceback.

    Not a subclass: Python ends a script with the signal's exit code only for the exact type.
    """
    message = status_file.read_text() if status_file.exists() else ""
    message = message or "interrupted; run the cell again to continue"
    error = KeyboardInterrupt(message)
    error._render_traceback_ = lambda: [message]
    return error


def _host_store(endpoint: str) -> None:
    """Serve ``endpoint`` until this process ends; elastic finds and shares this store.

    A store of one launch would close while another node already waits at the next launch.
    """
    if endpoint not in _stores:
        address = parse_rendezvous_endpoint(endpoint, default_port=DEFAULT_PORT)
        _stores[endpoint] = torch.distributed.TCPStore(
            *address, is_master=True, multi_tenant=True, wait_for_workers=False
        )


class _RankLogs(LogsSpecs):
    """One log file per rank; torch's own redirects write two and do not work on macOS."""

    @property
    def root_log_dir(self) -> str:
        return self._root_log_dir

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        logs = {i: log_path(Path(self._root_log_dir), env["RANK"]) for i, env in envs.items()}
        errors = {i: log.with_suffix(".error.json") for i, log in logs.items()}
        # Files of an earlier launch would be shown or reported as this one's.
        for file in (*logs.values(), *errors.values()):
            file.unlink(missing_ok=True)
        for i, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = str(errors[i])
        no_redirect = dict.fromkeys(envs, "")  # each process redirects its own output
        return LogsDest(
            stdouts=no_redirect,
            stderrs=no_redirect,
            tee_stdouts={0: str(logs[0])},
            error_files={i: str(error) for i, error in errors.items()},
        )


def _describe_failure(error: ChildFailedError, logs: Path, kept: bool) -> str:
    """The first failed rank with its traceback or, without one, the last lines of its log."""
    rank, failure = error.get_first_failure()
    log = log_path(logs, rank)
    if isinstance(failure.message, dict):
        cause, text = failure.message["message"], failure.message["extraInfo"]["py_callstack"]
    else:
        name = failure.signal_name() if failure.exitcode < 0 else "no Python exception"
        hint = ", often for lack of memory" if name == "SIGKILL" else ""
        cause = f"ended with exit code {failure.exitcode} ({name}{hint}); last lines of its log:"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else ["(none)"]
        text = "\n".join(lines[-20:])
    log_note = f"log: {log}" if kept else "log: not kept; set log_dir to keep the log of every rank"
    return f"rank {rank}: {cause}\n\n{text}\n{log_note}"
