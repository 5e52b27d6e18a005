"""Runs beside one another: keys that differ, metrics, recall, and folders that are no runs."""

import json
import os

import pandas as pd
import pytest
import yaml

from edge_lib import __main__ as command_line
from edge_lib import plots
from edge_lib.config import ConfigError, load_config
from edge_lib.runs.comparison import compare_runs, find_runs, format_runs, list_runs, sibling_runs

R1 = "test.vision_to_text.r1"


@pytest.fixture
def make_run(tmp_path):
    """make_run(name, overrides, r1, drop=keys) -> a run's folder; with no r1, without metrics."""

    def make(name, overrides="", r1=None, drop=()):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        values = yaml.safe_load(load_config("params/tiny/align.yaml", overrides).to_yaml())
        for section, key in drop:
            del values[section][key]
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        if r1 is not None:
            metrics = {f"{R1}.dim256": r1, R1: r1, f"{R1}.dim16": r1 / 2, "val.x": 1}
            (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return make


def test_runs_have_the_keys_that_differ_and_headlines(make_run):
    folders = [
        make_run("01_align-tiny-aaaaaaaa", "train.lr=1e-3", 0.5),
        make_run("01_align-tiny-bbbbbbbb", "train.lr=3e-3 loss.dims=[256,16] name=other", 0.75),
    ]
    table = list_runs(folders)
    assert [*table.columns] == ["run", "state", "finished", "loss.dims", "train.lr", R1]
    assert table["train.lr"].tolist() == [1e-3, 3e-3]
    assert table["loss.dims"].tolist()[1] == [256, 16]
    assert table[R1].tolist() == [0.5, 0.75]
    assert table["state"].tolist() == ["done", "done"]


def test_key_that_an_older_config_lacks_has_its_default(make_run):
    old = make_run("01_align-tiny-aaaaaaaa", drop=[("train", "clip"), ("loss", "kind")])
    new = make_run("01_align-tiny-bbbbbbbb", "train.ema=0.5")
    assert [*list_runs([old, new]).columns] == ["run", "state", "finished", "train.ema"]


def test_run_keeps_keys_that_no_longer_exist(make_run):
    old, new = make_run("01_align-tiny-aaaaaaaa"), make_run("01_align-tiny-bbbbbbbb")
    (old / "config.yaml").write_text((old / "config.yaml").read_text() + "retired: {key: 3}\n")
    table = list_runs([old, new])
    assert table["retired.key"].tolist()[0] == 3
    assert table["state"].tolist() == ["incomplete"] * 2


BROKEN = {
    "no yaml": ("config.yaml", "a: [", "broken: "),
    "yaml without keys": ("config.yaml", "text", "broken: config.yaml holds no keys"),
    "empty config": ("config.yaml", "", "broken: config.yaml holds no keys"),
    "config that is no text": ("config.yaml", b"\xff\xfe\x00", "broken: "),
    "partial metrics": ("metrics.json", '{"a": 1', "broken: "),
    "metrics of a list": ("metrics.json", "[1]", "broken: metrics.json holds no metrics"),
    "notebook that raised": (
        "notebook.ipynb",
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "cells": []}
                   | {"metadata": {"papermill": {"exception": True}}}),
        "failed",
    ),
    "partial notebook": ("notebook.ipynb", '{"cells', "incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_run_is_listed_beside_others(name, make_run):
    whole, other = make_run("01_align-tiny-aaaaaaaa", r1=0.5), make_run("01_align-tiny-bbbbbbbb")
    file, content, state = BROKEN[name]
    (other / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    table = list_runs([whole, other])
    assert table["state"][0] == "done"
    assert table["state"][1].startswith(state)
    assert table[R1][0] == 0.5
    assert compare_runs([whole, other])["run"].nunique() == 1
    assert other.name in format_runs([whole, other])


def test_found_runs_have_points_of_sweeps_and_other_folders(make_run, tmp_path):
    make_run("sweep-align/aaaaaaaa")
    make_run("sweep-align/bbbbbbbb", r1=0.5)
    make_run("01_align-tiny-aaaaaaaa")
    (tmp_path / "runs" / "cache" / "arrow").mkdir(parents=True)
    (tmp_path / "runs" / ".hidden").mkdir()
    (tmp_path / "runs" / "sweep-align" / "jobs").mkdir()
    (tmp_path / "runs" / "out.ipynb").write_text("")
    os.symlink(tmp_path / "gone", tmp_path / "runs" / "dangling")
    table = list_runs(find_runs(tmp_path / "runs"))
    assert dict(zip(table["run"], table["state"], strict=True)) == {
        "01_align-tiny-aaaaaaaa": "incomplete",
        "cache": "not a run",
        "sweep-align/aaaaaaaa": "incomplete",
        "sweep-align/bbbbbbbb": "done",
    }


def test_found_runs_of_a_run_are_itself(make_run, tmp_path):
    run = make_run("01_align-tiny-aaaaaaaa")
    assert find_runs(run) == [run]
    with pytest.raises(ConfigError, match=r"no such folder .*/none"):
        find_runs(tmp_path / "none")


def test_siblings_have_the_notebook_and_name_of_a_run(make_run):
    first = make_run("01_align-my-set-aaaaaaaa")
    second = make_run("01_align-my-set-bbbbbbbb")
    for name in ("01_align-my-aaaaaaaa", "02_align-my-set-cccccccc", "01_align-my-set-x-dddddddd"):
        make_run(name)
    assert sibling_runs(first) == [first, second]
    plain = make_run("a name of its own")
    assert sibling_runs(plain) == [plain]


def test_compared_runs_are_named_by_what_differs(make_run):
    folders = [
        make_run("01_align-tiny-aaaaaaaa", "train.lr=1e-3", 0.5),
        make_run("01_align-tiny-bbbbbbbb", "train.lr=3e-3", 0.75),
        make_run("01_align-tiny-cccccccc", "seed=4"),  # has no recall
    ]
    drawn = {"query": ["vision"], "gallery": ["text"], "k": [1], "dim": [256]}
    drawn |= {"low": [0.7], "high": [0.8], "rows": [2000], "recall": [0.75]}
    (folders[1] / "figures").mkdir()
    pd.DataFrame(drawn).to_csv(folders[1] / "figures" / "recall_by_dim.csv")
    table = compare_runs(folders)
    assert table["run"].unique().tolist() == ["train.lr=0.001", "train.lr=0.003"]
    assert table["recall"].tolist() == [0.5, 0.25, 0.75, 0.375]
    assert table["dim"].tolist() == [256, 16, 256, 16]
    assert table["rows"].tolist()[2] == 2000
    assert table[["low", "high", "rows"]].isna().sum().tolist() == [3, 3, 3]


def test_compared_runs_that_do_not_differ_have_their_folders_names(make_run):
    folders = [make_run(f"01_align-tiny-{c * 8}", r1=0.5) for c in "ab"]
    assert compare_runs(folders)["run"].unique().tolist() == [path.name for path in folders]


def test_compared_recall_draws_a_line_for_each_run(make_run):
    folders = [
        make_run("01_align-tiny-aaaaaaaa", "train.lr=1e-3", 0.5),
        make_run("01_align-tiny-bbbbbbbb", "train.lr=3e-3", 0.75),
    ]
    figure, table = plots.compared_recall(compare_runs(folders))
    [axes] = figure.axes
    lines = {line.get_label(): [*zip(*line.get_data(), strict=True)] for line in axes.lines}
    assert lines == {
        "train.lr=0.001": [(16, 0.25), (256, 0.5)],
        "train.lr=0.003": [(16, 0.375), (256, 0.75)],
    }
    assert len(table) == 4
    assert figure.alt == (
        "R@1 by dims of 2 runs; mean over directions at the full size: "
        "train.lr=0.001 0.50 and train.lr=0.003 0.75."
    )


def test_compared_recall_without_runs_says_so():
    figure, table = plots.compared_recall(compare_runs([]))
    assert (figure.alt, len(table)) == ("No run with R@1.", 0)


def test_command_lists_runs_by_notebook(make_run, tmp_path, capsys):
    make_run("01_align-tiny-aaaaaaaa", "train.lr=1e-3", 0.5)
    make_run("01_align-tiny-bbbbbbbb", "train.lr=3e-3")
    make_run("02_trimodal-tiny-bbbbbbbb", "seed=3")
    (tmp_path / "runs" / "cache").mkdir()
    assert command_line.main(["runs", str(tmp_path / "runs")]) == 0
    blocks = [block.splitlines() for block in capsys.readouterr().out.strip().split("\n\n")]
    assert [block[0] for block in blocks] == ["01_align", "02_trimodal", "other folders"]
    assert blocks[0][1].split() == ["run", "state", "finished", R1, "differs", "in"]
    assert blocks[0][2].split()[-2:] == ["0.500", "train.lr=0.001"]
    assert blocks[0][3].split() == ["01_align-tiny-bbbbbbbb", "incomplete", "train.lr=0.003"]
    assert len(blocks[1][2].split()) == 2  # alone, it differs from no other


def test_command_prints_csv(make_run, tmp_path, capsys):
    make_run("01_align-tiny-aaaaaaaa", "seed=3", 0.5)
    make_run("01_align-tiny-bbbbbbbb")
    assert command_line.main(["runs", str(tmp_path / "runs"), "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"run,state,finished,seed,{R1}"
    assert lines[1].startswith("01_align-tiny-aaaaaaaa,done,2")
    assert lines[1].endswith(",3,0.5")
    assert lines[2] == "01_align-tiny-bbbbbbbb,incomplete,,0,"
