"""Rules that every notebook keeps."""

import ast
import re
from itertools import pairwise
from pathlib import Path
from statistics import median

import nbformat
import pytest

from edge_lib.config import ROOT, load_config
from edge_lib.runs.points import make_points

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = sorted((ROOT / "runs/showcase").glob("*.ipynb"))
LOCAL_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|Users|work)/[\w.-]+")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_lines(notebook):
    return [cell.source.splitlines() for cell in code_cells(notebook)]


def calls(tree, name):
    """The calls of a function in a tree, in the order of the source."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [node for node in nodes if ast.unparse(node.func) == name]


def test_notebook_has_no_outputs(notebook):
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(notebook))


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
def test_executed_notebook_holds_no_local_path_and_no_widget(path):
    content = path.read_text()
    assert LOCAL_PATH.findall(content) == []
    assert "application/vnd.jupyter.widget" not in content


def test_notebook_runs_on_any_python3_kernel(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_notebook_has_one_parameters_cell_with_three_parameters(notebook):
    (cell,) = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    names = {}
    exec(cell.source, names)
    names.pop("__builtins__")
    assert names.keys() == {"config", "overrides", "run_dir"}
    assert (names["overrides"], names["run_dir"]) == ("", "")
    load_config(names["config"])


def test_notebook_title_is_a_question(notebook):
    title, *_ = notebook.cells[0].source.splitlines()
    assert title.startswith("# ")
    assert title.endswith("?")


def test_notebook_ends_with_metrics(notebook):
    last = code_cells(notebook)[-1]
    assert last is notebook.cells[-1]
    assert "run.save_metrics(" in last.source


def test_notebook_explains_each_code_cell(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert ("code", "code") not in set(pairwise(kinds))
    assert all(cell.source.strip() for cell in notebook.cells)


def test_notebook_cells_are_short(notebook):
    lengths = [len(lines) for lines in code_lines(notebook)]
    assert max(lengths) <= 20
    assert median(lengths) <= 7


def test_notebook_defines_no_functions(notebook):
    lines = [line for lines in code_lines(notebook) for line in lines]
    assert not any(line.lstrip().startswith(("class ", "def ")) for line in lines)


def test_notebook_shows_each_figure_that_it_saves(notebook):
    """`save_figure` returns a `Figure`, whose output has alt text: it is displayed or the value of
    the cell.
    """
    for cell in code_cells(notebook):
        tree = ast.parse(cell.source)
        displayed = [argument for call in calls(tree, "display") for argument in call.args]
        displayed.append(getattr(tree.body[-1], "value", None))
        hidden = [call for call in calls(tree, "run.save_figure") if call not in displayed]
        assert not hidden, cell.source


def test_notebook_names_no_absolute_path(notebook):
    absolute = r"""["'`(\s](?:/(?:home|root|work|tmp|mnt|Users)/|~/|[A-Z]:\\)"""
    assert not [cell.source for cell in notebook.cells if re.search(absolute, cell.source)]


def test_every_config_loads():
    for path in sorted(Path(ROOT / "params").rglob("*.yaml")):
        config = load_config(path)
        if config.qa or config.sweep:  # 03 trains its decoders as points of a sweep
            assert make_points(path)
