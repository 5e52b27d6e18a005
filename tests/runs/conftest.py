"""Notebooks of a few lines, executed by papermill in a second."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook


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
