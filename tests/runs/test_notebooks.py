"""Runs that other runs need: made once, found again."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from edge_lib.config import AlignerSource, ConfigError, load_config
from edge_lib.runs.notebooks import find_aligner, state

PARAMETERS = 'config = overrides = run_dir = ""'
WORK = """
import json, pathlib
run = pathlib.Path(run_dir)
open(run.parent / "executed.txt", "a").write(run.name + "\\n")
lr = next(float(x.split()[1]) for x in open(config) if x.strip().startswith("lr:"))
assert lr != 0.5, "this one fails"
(run / "metrics.json").write_text(json.dumps({"lr": lr}))
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """source(overrides) -> an aligner's experiment that takes no time, with runs under tmp."""
    monkeypatch.setattr("edge_lib.runs.run.ROOT", tmp_path)
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(WORK)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, tmp_path / "train.ipynb")
    notebook = tmp_path / "train.ipynb"
    config = "params/tiny/align.yaml"
    return lambda overrides="": AlignerSource(notebook=notebook, config=config, overrides=overrides)


def test_an_aligner_is_trained_once_and_then_found(source, tmp_path, capsys):
    wanted = source("train.lr=0.25")
    best = find_aligner(wanted)
    assert "train.ipynb first" in capsys.readouterr().out
    config = load_config(wanted.config, wanted.overrides)
    run = tmp_path / "runs" / f"train-tiny-{config.digest()}"  # where the notebook itself puts it
    assert best == run / "checkpoints" / "best"
    assert json.loads((run / "metrics.json").read_text()) == {"lr": 0.25}
    assert (run / "config.yaml").read_text() == config.to_yaml()

    assert find_aligner(wanted) == best
    assert capsys.readouterr().out == ""
    assert (tmp_path / "runs" / "executed.txt").read_text().split() == [run.name]
    assert find_aligner(source("train.lr=0.2")) != best


def test_a_failure_is_raised_and_stays_to_be_seen(source, tmp_path):
    with pytest.raises(Exception, match="this one fails"):
        find_aligner(source("train.lr=0.5"))
    (folder,) = (tmp_path / "runs").glob("train-*")
    assert state(folder) == "failed"
    assert "this one fails" in (folder / "notebook.ipynb").read_text()


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert find_aligner(AlignerSource(folder=tmp_path)) == tmp_path


@pytest.mark.parametrize("aligner", ["{}", "{config: a.yaml, folder: b}"])
def test_a_config_or_a_folder_and_not_both(tmp_path, aligner):
    path = tmp_path / "c.yaml"
    path.write_text(f"name: x\naligner: {aligner}\n")
    with pytest.raises(ConfigError, match="either the config of its experiment, or its folder"):
        load_config(path)
