"""Notebooks of a few lines, executed by papermill in a second."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from sweeps import CODE

from edge_lib.runs import job_watch, slurm_points


@pytest.fixture
def write_notebook(tmp_path):
    """write_notebook(code, parameters) -> the path of a notebook with these two cells."""

    def write(code, parameters='config = overrides = run_dir = ""'):
        cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(code)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / "train.ipynb"
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        return path

    return write


@pytest.fixture
def write_sweep(write_notebook, tmp_path):
    """write_sweep(grids, seeds, ...) -> the path of a sweep's config with points in tmp/points."""
    notebook = write_notebook(CODE)
    (tmp_path / "points").mkdir(exist_ok=True)

    def write(grids, seeds=(0,), **options):
        paths = {"notebook": str(notebook), "folder": str(tmp_path / "points")}
        sweep = {**paths, "grids": grids, "seeds": list(seeds), **options}
        path = tmp_path / "sweep.yaml"
        path.write_text(json.dumps({"name": "small", "sweep": sweep}))
        return path

    return write


@pytest.fixture
def short_waits(monkeypatch):
    """Look at Slurm's queue often."""
    monkeypatch.setattr(job_watch, "LOOK_SECONDS", (0, 0))
    monkeypatch.setattr(slurm_points, "SECONDS", 0.2)
    monkeypatch.setattr(slurm_points, "VISIBLE_SECONDS", 0.5)
