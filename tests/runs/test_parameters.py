"""Unknown papermill parameters stop a notebook before it does anything."""

from types import SimpleNamespace

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from edge_lib.config import ConfigError
from edge_lib.runs.parameters import check_parameters

DECLARED = 'config = "a.yaml"\noverrides = ""\nrun_dir = ""'
START = """
from edge_lib.config import load_config
from edge_lib.runs import Run

run = Run.create(load_config(config, overrides), "train", run_dir)
print(run.folder)
"""


@pytest.fixture
def execute(write_notebook, tmp_path):
    """execute(**parameters) -> the executed notebook, which creates a run in tmp_path/run."""
    notebook = write_notebook(START, f'config = "params/tiny/align.yaml"\n{DECLARED[18:]}')

    def execute(**parameters):
        parameters["run_dir"] = str(tmp_path / "run")
        output = tmp_path / "out.ipynb"
        return papermill.execute_notebook(notebook, output, parameters, progress_bar=False)

    return execute


@pytest.fixture
def executed_cells(monkeypatch):
    """executed_cells(cell, ...) makes these the history of the kernel."""

    def set_history(*cells):
        shell = SimpleNamespace(user_ns={"In": ["", *cells]})
        monkeypatch.setattr("IPython.get_ipython", lambda: shell)

    return set_history


def test_papermill_unknown_parameter_stops_notebook(execute, tmp_path):
    message = r"unknown notebook parameter 'confg'; did you mean 'config'\? allowed: config, overr"
    with pytest.raises(PapermillExecutionError, match=message):
        execute(confg="params/full/align.yaml")
    assert not (tmp_path / "run").exists()


def test_papermill_known_parameters_are_accepted(execute, tmp_path):
    execute(config="params/tiny/align.yaml", overrides="seed=3")
    assert "seed: 3" in (tmp_path / "run" / "config.yaml").read_text()


def test_check_parameters_names_unknown(executed_cells):
    executed_cells("import numpy as np", DECLARED, "# Parameters\nseed = 3\nrun_dir = 'x'\n")
    with pytest.raises(ConfigError) as caught:
        check_parameters()
    expected = "unknown notebook parameter 'seed'; allowed: config, overrides, run_dir"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "cells",
    [
        (),
        (DECLARED, "x = 3"),
        (DECLARED, "# Parameters\nconfig = 'b.yaml'\n"),
        (DECLARED + "\nsteps = 3", "# Parameters\nsteps = 4\n"),
        ("import numpy", "# Parameters\nlr = 4\n"),
        (DECLARED, "# Parameters\nconfg = 3\n", DECLARED, "# Parameters\nconfig = 3\n"),
    ],
    ids=["none", "not-injected", "known", "declared", "other-notebook", "corrected"],
)
def test_check_parameters_accepts(executed_cells, cells):
    executed_cells(*cells)
    check_parameters()


def test_check_parameters_does_nothing_outside_notebooks():
    check_parameters()
