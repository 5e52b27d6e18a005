"""papermill's entry point: an interrupt reaches the cell, and of the tasks of one srun only the
first writes the notebook.

papermill imports this module, which is one of its entry points, in each of its processes.
"""

from typing import Any

from papermill.clientwrap import PapermillNotebookClient
from papermill.iorw import papermill_io

from edge_lib.runs.allocation import JOINED, find_allocation
from edge_lib.runs.papermill_interrupts import execute_cells

SCHEME = None  # of papermill's paths: none is added
_write = papermill_io.write


def write_unless_joined(notebook: str, path: str, *options: Any) -> None:
    """papermill's write, but for a notebook whose output says that its node joined another."""
    if JOINED not in notebook:
        _write(notebook, path, *options)


PapermillNotebookClient.papermill_execute_cells = execute_cells
if (allocation := find_allocation()) and allocation.rank:
    papermill_io.write = write_unless_joined
