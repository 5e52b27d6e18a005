"""Processes and nodes."""

from pydantic import Field

from edge_lib.config.base import Count, Positive, Section


class LaunchConfig(Section):
    """How many processes train, on how many nodes."""

    num_processes: Positive = 1
    num_nodes: Positive = 1
    node_rank: Count = 0
    rdzv_endpoint: str = Field("localhost:0", description="host:port of node 0")

    @property
    def world_size(self) -> int:
        return self.num_processes * self.num_nodes
