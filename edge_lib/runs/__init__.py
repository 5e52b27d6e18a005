"""Run folders, headless notebooks and sweeps."""

from edge_lib.runs.run import Run
