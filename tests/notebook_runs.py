"""Run a notebook as a user would: by papermill, from a working directory of its own."""

from pathlib import Path

import nbformat
import papermill

from edge_lib.config import ROOT


def run_notebook(name: str, folder: Path, overrides: str, **parameters) -> nbformat.NotebookNode:
    """Execute notebooks/NAME.ipynb in `folder`, with folder/run as its run; the executed one."""
    output = folder / "out.ipynb"
    parameters |= {"overrides": overrides, "run_dir": str(folder / "run")}
    notebook = ROOT / f"notebooks/{name}.ipynb"
    papermill.execute_notebook(notebook, output, parameters, cwd=folder, progress_bar=False)
    return nbformat.read(output, as_version=4)
