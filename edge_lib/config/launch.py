"""Processes and nodes."""

from typing import Literal

from pydantic import Field

from edge_lib.config.base import Count, Positive, Section
from edge_lib.config.slurm import SlurmOptions

ANY_PORT = "localhost:0"  # of a launch on one node


class LaunchConfig(Section):
    """How many processes train, on how many nodes.

    Tasks that one srun started are the nodes of a run, with no other key set.
    """

    num_processes: Positive = Field(1, description="on each node")
    num_nodes: Positive = 1
    node_rank: Count = 0
    rdzv_endpoint: str = Field(ANY_PORT, description="host:port of node 0")
    cluster: Literal["local", "slurm"] = Field(
        "local", description="slurm: each launch is a job with a task on each node"
    )
    slurm: SlurmOptions = {}

    @property
    def endpoint(self) -> str:
        """The rendezvous endpoint, "" if it is not set."""
        return "" if self.rdzv_endpoint == ANY_PORT else self.rdzv_endpoint

    @property
    def world_size(self) -> int:
        return self.num_processes * self.num_nodes
