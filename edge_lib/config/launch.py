"""Processes and nodes."""

from edge_lib.config.base import Count, Positive, Section


class LaunchConfig(Section):
    num_processes: Positive = 1
    num_nodes: Positive = 1
    node_rank: Count = 0
    rdzv_endpoint: str = "localhost:0"
