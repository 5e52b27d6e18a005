"""Headless notebooks: executed once per run folder, with nothing left to saved parameters."""

import json
import os

import pytest

from edge_lib.config import AlignerSource, ConfigError, load_config
from edge_lib.runs.notebooks import aligner_folder, execute_notebook, find_aligner, run_state

CODE = """
import json, pathlib
run = pathlib.Path(run_dir)
open(run.parent / "executed.txt", "a").write(run.name + "\\n")
lr = next(float(x.split()[1]) for x in open(config) if x.strip().startswith("lr:"))
assert lr != 0.5, "this one fails"
(run / "metrics.json").write_text(json.dumps({"lr": lr}))
"""


@pytest.fixture
def source(write_notebook, tmp_path, monkeypatch):
    """source(overrides) -> an AlignerSource whose notebook is fast; its runs are in tmp_path."""
    monkeypatch.setattr("edge_lib.runs.run.ROOT", tmp_path)
    notebook, config = write_notebook(CODE), "params/tiny/align.yaml"
    return lambda overrides="": AlignerSource(notebook=notebook, config=config, overrides=overrides)


def test_find_aligner_trains_once(source, tmp_path, capsys):
    first = source("train.lr=0.25")
    best = find_aligner(first)
    config = load_config(first.config, first.overrides)
    run = tmp_path / "runs" / f"train-tiny-{config.digest()}"  # as the notebook itself names it
    (line,) = capsys.readouterr().out.splitlines()
    assert "running train.ipynb first" in line
    assert str(run / "logs") in line
    assert best == run / "checkpoints" / "best"
    assert json.loads((run / "metrics.json").read_text()) == {"lr": 0.25}
    assert (run / "config.yaml").read_text() == config.to_yaml()

    assert find_aligner(first) == best
    assert capsys.readouterr().out == ""
    assert (tmp_path / "runs" / "executed.txt").read_text().split() == [run.name]
    assert find_aligner(source("train.lr=0.2")) != best


def test_find_aligner_raises_and_keeps_failed_notebook(source, tmp_path):
    with pytest.raises(Exception, match="this one fails"):
        find_aligner(source("train.lr=0.5"))
    (folder,) = (tmp_path / "runs").glob("train-*")
    assert run_state(folder) == "failed"
    assert "this one fails" in (folder / "notebook.ipynb").read_text()


def test_find_aligner_runs_where_its_own_config_says(write_notebook, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_lib.runs.run.ROOT", tmp_path)
    code = """
import json, pathlib
from edge_lib.config import load_config
launch = load_config(config, overrides).launch
pathlib.Path(run_dir, "metrics.json").write_text(json.dumps([launch.cluster, launch.slurm]))
"""
    overrides = "launch.cluster=slurm launch.slurm={slurm_partition: gpu, timeout_min: 60}"
    source = AlignerSource(
        notebook=write_notebook(code), config="params/tiny/align.yaml", overrides=overrides
    )
    run = find_aligner(source).parents[1]
    launch = ["slurm", {"slurm_partition": "gpu", "timeout_min": 60}]
    assert json.loads((run / "metrics.json").read_text()) == launch


def test_find_aligner_returns_folder(tmp_path):
    (tmp_path / "aligner.json").write_text("{}")
    assert find_aligner(AlignerSource(folder=tmp_path)) == tmp_path


@pytest.mark.parametrize("function", [find_aligner, aligner_folder])
def test_aligner_folder_that_is_missing_is_rejected(tmp_path, function):
    with pytest.raises(ConfigError, match=r"^aligner\.folder: no saved aligner in /.*/none$"):
        function(AlignerSource(folder=tmp_path / "none"))


def test_execute_notebook_ignores_saved_parameters(write_notebook, tmp_path):
    """A notebook saved with other parameters than the caller's."""
    code = (
        "open(run_dir + '/metrics.json', 'w').write(repr([config, overrides]).replace(\"'\", '\"'))"
    )
    notebook = write_notebook(code, 'config, overrides, run_dir = "a", "seed=3", "b"')
    folder = tmp_path / "run [v2] a::b * {x}"
    execute_notebook(notebook, folder, load_config("params/tiny/align.yaml"))
    assert run_state(folder) == "done"
    saved = json.loads((folder / "metrics.json").read_text())
    assert saved == [str(folder / "config.yaml"), ""]


def test_notebook_executed_from_an_open_one_is_headless(write_notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "opened.ipynb")
    code = "import os, json; opened = [x for x in os.environ if x == 'JPY_SESSION_NAME']\n"
    notebook = write_notebook(code + "json.dump(opened, open(run_dir + '/metrics.json', 'w'))")
    execute_notebook(notebook, tmp_path / "run", load_config("params/tiny/align.yaml"))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == []
    assert os.environ["JPY_SESSION_NAME"] == "opened.ipynb"


@pytest.mark.parametrize("aligner", ["{}", "{config: a.yaml, folder: b}"], ids=["none", "both"])
def test_aligner_source_takes_config_or_folder(tmp_path, aligner):
    path = tmp_path / "c.yaml"
    path.write_text(f"name: x\naligner: {aligner}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: aligner: "):
        load_config(path)
