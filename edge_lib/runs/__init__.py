"""A run: its folder, its notebook run headlessly, sweeps of many."""

from edge_lib.runs.run import Run

__all__ = ["Run"]
