"""What every notebook must be, whatever it says."""

from pathlib import Path

import nbformat
import pytest

from edge_lib.config import ROOT, load_config
from edge_lib.runs.points import make_points

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_outputs_are_stripped(notebook):
    assert not any(cell.outputs or cell.execution_count for cell in code(notebook))


def test_runs_on_any_python3_kernel(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_one_parameters_cell_with_the_three_parameters(notebook):
    (cell,) = [c for c in code(notebook) if "parameters" in c.metadata.get("tags", [])]
    names = {}
    exec(cell.source, names)
    names.pop("__builtins__")
    assert names.keys() == {"config", "overrides", "run_dir"}
    assert (names["overrides"], names["run_dir"]) == ("", "")
    load_config(names["config"])


def test_starts_with_a_question_and_ends_with_metrics(notebook):
    assert notebook.cells[0].source.startswith("# ")
    assert "?" in notebook.cells[0].source.splitlines()[0]
    assert "run.save_metrics(" in notebook.cells[-1].source


def test_cells_are_short_and_hold_no_machinery(notebook):
    lines = [cell.source.splitlines() for cell in code(notebook)]
    assert max(map(len, lines)) <= 20
    assert not any(line.startswith(("class ", "def ")) for cell in lines for line in cell)


def test_every_config_loads():
    for path in sorted(Path(ROOT / "params").rglob("*.yaml")):
        config = load_config(path)
        if config.qa or config.sweep:  # 03 trains its decoders as points of a sweep
            assert make_points(path)
