"""A launch on the nodes of one srun; `edge_lib.runs.nodes` is the notebook's side of it."""

from functools import partial
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException

from edge_lib.runs.nodes import Nodes
from edge_lib.training.launch_report import WorkerError, as_worker_error, first_failure
from edge_lib.training.node import Node, run_node

LOST = "task {} of this srun was killed, or its kernel was; see the output of srun"


def launch_on_nodes(
    nodes: Nodes, payload: bytes, num_processes: int, log_dir: Path | None
) -> dict[int, Any]:
    """This node's part of a launch that the others follow or, in a script, make as well.

    If it fails, the first node raises the failure that explains those of the others.
    """
    if nodes.rank:
        return _take_part(payload, num_processes, log_dir, nodes, next(nodes.launches))
    if lost := nodes.lost():
        raise WorkerError(LOST.format(lost))
    number = nodes.send(partial(_take_part, payload, num_processes, log_dir))
    node = Node(0, nodes.size, nodes.endpoint, number, nodes.hosts)
    try:
        return run_node(payload, num_processes, node, log_dir)
    except WorkerError as error:
        if lost := nodes.lost():
            failure = WorkerError(f"{LOST.format(lost)}\n\nand then {error}")
        else:
            failure = first_failure([error, *nodes.failures(number)])
        nodes.stop(number)
    except BaseException:
        nodes.stop(number)
        raise
    raise failure


def _take_part(
    payload: bytes, num_processes: int, log_dir: Path | None, nodes: Nodes, number: int
) -> dict[int, Any]:
    """Another node's part of launch `number`, whose failure the first one learns."""
    node = Node(nodes.rank, nodes.size, nodes.endpoint, number, hosts=False)
    try:
        return run_node(payload, num_processes, node, log_dir)
    except SignalException:
        raise
    except Exception as error:
        nodes.report(number, as_worker_error(error, nodes.rank))
        raise
