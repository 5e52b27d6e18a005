"""Execute a notebook as a user would: with papermill, from another working directory."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import nbformat
import papermill
from huggingface_hub import ModelCard

from edge_lib.config import ROOT

FORK = """
import multiprocessing
from edge_lib.training import node

node.START_METHOD = "forkserver"
multiprocessing.set_forkserver_preload({preload})
"""


def run_notebook(
    name: str, folder: Path, overrides: str, preload: Sequence[str] = (), **parameters
) -> nbformat.NotebookNode:
    """Execute notebooks/NAME.ipynb in `folder`, with folder/run as its run folder. Returns the
    executed notebook, folder/out.ipynb.

    preload: modules that the processes of the notebook would each import; they are forked from one
    that has imported them.

    On one core: beside other tests, threads of such small models only wait for one another, and
    importing the library costs a second process more than it computes.
    """
    output = folder / "out.ipynb"
    parameters |= {"overrides": overrides, "run_dir": str(folder / "run")}
    notebook = ROOT / f"notebooks/{name}.ipynb"
    variables = {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}
    if preload:
        variables["IPYTHONDIR"] = str(write_startup(folder, FORK.format(preload=[*preload])))
    with mock.patch.dict(os.environ, variables):
        papermill.execute_notebook(notebook, output, parameters, cwd=folder, progress_bar=False)
    return nbformat.read(output, as_version=4)


def write_startup(folder: Path, code: str) -> Path:
    """An IPYTHONDIR in `folder` whose kernels run `code` first."""
    startup = folder / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "first.py").write_text(code)
    return folder / "ipython"


def card_values(folder):
    """The numbers in the model-index of a saved model's card, by their names."""
    card = ModelCard.load(folder / "README.md")
    return {result.metric_name: result.metric_value for result in card.data.eval_results or []}


def read_metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def printed_text(notebook: nbformat.NotebookNode) -> str:
    """All that the cells printed, and their Markdown outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    markdown = (output.get("data", {}).get("text/markdown", "") for output in outputs)
    return "".join([*(output.get("text", "") for output in outputs), *markdown])
