"""A node's part of a launch: torch's elastic agent and the processes that it starts here."""

import pickle
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import DEFAULT_PORT
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from edge_lib.runs.interrupts import one_line_interrupt
from edge_lib.runs.parent import spawned_end_with_this
from edge_lib.training.forking import start_method
from edge_lib.training.launch_context import (
    bars_drawn,
    child_environment,
    leftover_children_killed,
    sigterm_restored,
    silent_elastic,
)
from edge_lib.training.launch_report import RankLogs, worker_error
from edge_lib.training.worker import BARS, STATUS, run_worker

START_METHOD = "spawn"  # a fork would inherit CUDA and bitsandbytes state
_stores: dict[str, TCPStore] = {}  # hosted by this process, by endpoint


@dataclass(frozen=True)
class Node:
    """One of the nodes of a launch, which has a number in the store at the endpoint."""

    rank: int
    size: int
    endpoint: str
    launch: int
    hosts: bool  # this process serves the store


def run_node(
    payload: bytes, num_processes: int, node: Node, log_dir: Path | None
) -> dict[int, Any]:
    """A node's part of a launch: {rank: result}."""
    with (
        sigterm_restored(),
        tempfile.TemporaryDirectory(prefix="edge-glass-") as folder,
        child_environment(num_processes),
        silent_elastic(),
        leftover_children_killed(),
        spawned_end_with_this() if START_METHOD == "spawn" else nullcontext(),
        bars_drawn((scratch := Path(folder)) / BARS),
    ):
        (logs := log_dir or scratch).mkdir(parents=True, exist_ok=True)
        try:
            config = _elastic_config(logs, num_processes, node)
            results = elastic_launch(config, run_worker)(payload, logs, scratch)
            return {rank: pickle.loads(result) for rank, result in sorted(results.items())}
        except ChildFailedError as error:
            failure = worker_error(error, logs, kept=log_dir is not None)
        except KeyboardInterrupt:
            status = scratch / STATUS
            message = status.read_text() if status.exists() else ""
            failure = one_line_interrupt(message or "interrupted; run the cell again to continue")
    # Raised in the except clauses, the error's traceback would keep the agent's sockets open.
    raise failure


def _elastic_config(logs: Path, num_processes: int, node: Node) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=node.size,
        max_nodes=node.size,
        nproc_per_node=num_processes,
        # A finished rendezvous stays closed, so each launch needs its own name.
        run_id=f"edge-glass-{node.launch}",
        rdzv_backend="c10d",
        rdzv_endpoint=node.endpoint,
        rdzv_configs={"is_host": node.hosts},
        # The default is the machine's own name, which may not resolve.
        local_addr="localhost" if node.endpoint.startswith("localhost") else None,
        max_restarts=0,
        start_method=start_method(START_METHOD),
        logs_specs=RankLogs(str(logs)),
        role="",
        log_line_prefix_template="${role_name}",  # empty: the cell shows lines without a prefix
        signals_to_handle="SIGTERM",  # SIGINT keeps raising KeyboardInterrupt
        shutdown_timeout=5,
    )


def host_store(endpoint: str) -> None:
    """Serve ``endpoint`` until this process ends; elastic finds and shares this store.

    A store of one launch would close while another node already waits at the next launch.
    """
    if endpoint not in _stores:
        address = parse_rendezvous_endpoint(endpoint, default_port=DEFAULT_PORT)
        _stores[endpoint] = TCPStore(
            *address, is_master=True, multi_tenant=True, wait_for_workers=False
        )
