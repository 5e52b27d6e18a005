"""Sweeps of a fast notebook, through papermill and submitit's local processes."""

import os
import signal
import subprocess
import sys
from functools import partial

import pandas as pd
import pytest
import yaml
from sweeps import executed, wait_for

from edge_lib.__main__ import main
from edge_lib.config import ConfigError, load_config
from edge_lib.runs.notebooks import executed_notebook
from edge_lib.runs.points import by_dim, collect, make_points
from edge_lib.runs.sweep import run_sweep


def run(path, overrides=""):
    points = make_points(path, overrides)
    return points, run_sweep(points, load_config(path, overrides).sweep)


# --- points ----------------------------------------------------------------------------------


def test_make_points_is_product_of_each_grid_and_seeds(write_sweep):
    grids = {"a": {"train.lr": [0.1, 0.2], "loss.dims": [[8], [8, 4]]}, "b": {}}
    points = make_points(write_sweep(grids, seeds=[0, 7]), "train.clip=2")
    assert [p.grid for p in points] == ["a"] * 8 + ["b"] * 2
    assert [(p.config.train.lr, p.config.loss.dims, p.config.seed) for p in points[:4]] == [
        (0.1, [8], 0),
        (0.1, [8], 7),
        (0.1, [8, 4], 0),
        (0.1, [8, 4], 7),
    ]
    assert points[0].settings == {"train.lr": 0.1, "loss.dims": [8], "seed": 0}
    assert {p.config.train.clip for p in points} == {2}
    assert {p.config.sweep for p in points} == {None}
    assert len({p.folder for p in points}) == 10


@pytest.mark.parametrize(
    "overrides",
    ["train.lr=1 loss.dims=[8, 4]", {"train": {"lr": 1}, "loss.dims": [8, 4]}],
    ids=["text", "dict"],
)
def test_make_points_applies_overrides_below_grid(write_sweep, overrides):
    points = make_points(write_sweep({"a": {"train.lr": [0.1]}, "b": {}}), overrides)
    assert [(p.config.train.lr, p.config.loss.dims) for p in points] == [(0.1, [8, 4]), (1, [8, 4])]


def test_make_points_shares_folders_with_wider_sweep(write_sweep):
    narrow = {p.folder for p in make_points(write_sweep({"a": {"train.lr": [0.1]}}))}
    wide = write_sweep({"b": {"train.lr": [0.1, 0.2]}}, seeds=[0, 1], workers=7, threads=3)
    assert narrow < {p.folder for p in make_points(wide)}


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"train.lrr": [1]}, r"train\.lrr: unknown key"),
        ({"train.lr": [0.1, -1]}, r"train\.lr: Input should be greater than 0"),
    ],
    ids=["unknown key", "wrong value"],
)
def test_make_points_rejects_invalid_grid(write_sweep, grid, message):
    path = write_sweep({"a": grid})
    with pytest.raises(ConfigError, match=rf"^{path}: sweep\.grids\.a: {message}"):
        make_points(path)


@pytest.mark.parametrize("grid", [{"train.lr": [0.1]}, {"train": {"lr": [0.1]}}], ids=str)
def test_grid_is_given_by_overrides_and_as_sections(write_sweep, grid):
    path = write_sweep({"a": grid})
    assert make_points(path)[0].settings == {"train.lr": 0.1, "seed": 0}
    points = make_points(path, "sweep.grids.a.train.lr=[0.2,0.3] sweep.grids.a.train.clip=[2]")
    assert [(p.config.train.lr, p.config.train.clip) for p in points] == [(0.2, 2), (0.3, 2)]


@pytest.mark.parametrize("launch", ["launch.num_nodes=2", "launch.cluster=slurm"])
def test_points_on_several_nodes_are_refused(write_sweep, launch):
    with pytest.raises(ConfigError, match=f"{launch}.*one node; .* set sweep.cluster=slurm$"):
        make_points(write_sweep({"a": {"train.lr": [0.1]}}), launch)
    key, value = launch.split("=")
    with pytest.raises(ConfigError, match="one node"):
        make_points(write_sweep({"a": {key: [yaml.safe_load(value)]}}))


def test_make_points_lists_equal_settings_once(write_sweep):
    grids = {"a": {"train.lr": [0.1, 0.2, 0.1]}, "b": {"train.lr": [0.2]}}
    points = make_points(write_sweep(grids, seeds=[3, 3]))
    assert [(p.grid, p.config.train.lr) for p in points] == [("a", 0.1), ("a", 0.2), ("b", 0.2)]


def test_make_points_rejects_missing_notebook(write_sweep):
    with pytest.raises(ConfigError, match=r"sweep\.notebook: no file /nowhere/x\.ipynb"):
        make_points(write_sweep({"a": {}}), "sweep.notebook=/nowhere/x.ipynb")


def test_make_points_rejects_config_without_sweep():
    with pytest.raises(ConfigError, match="this needs sweep"):
        make_points("params/tiny/align.yaml")


# --- running ---------------------------------------------------------------------------------


def test_sweep_reports_failed_points_and_retries_on_demand(write_sweep, tmp_path, capfd):
    path = write_sweep({"a": {"train.lr": [0.1, 0.5, 0.2]}}, threads=3)
    points, failed = run(path)
    assert [p.state for p in points] == ["done", "failed", "done"]
    assert [p.config.train.lr for p in failed] == [0.5]
    printed = capfd.readouterr().out
    line = "failed: {'train.lr': 0.5, 'seed': 0}: ValueError: this point fails"
    assert f"{line}: see {executed_notebook(failed[0].folder)}\n" in printed
    assert "3/3 run, 1 failed, 0 s left" in printed
    assert "this point fails" in executed_notebook(failed[0].folder).read_text()

    table = collect(points)
    assert list(table.columns) == ["grid", "train.lr", "seed", "point", "metric", "value"]
    assert table.query("metric == 'lr'").value.tolist() == [0.1, 0.2]
    assert table.query("metric == 'threads'").value.tolist() == [3, 3]

    before = executed(tmp_path)
    assert [p.config.train.lr for p in run(path)[1]] == [0.5]
    assert main(["sweep", str(path)]) == 1
    assert executed(tmp_path) == before

    (tmp_path / "points" / "repaired").touch()
    assert run(path, "sweep.retry=true")[1] == []
    assert executed(tmp_path) == [*before, f"{failed[0].folder.name} 0.5"]


def test_sweep_runs_as_many_points_as_workers(write_sweep, tmp_path):
    (tmp_path / "points" / "pause").write_text("4")
    points, _ = run(write_sweep({"a": {"train.lr": [0.1, 0.2, 0.3]}}, workers=2))
    times = [(p.metrics()["began"], p.metrics()["ended"]) for p in points]
    assert max(sum(b <= moment < e for b, e in times) for moment, _ in times) == 2, times


def test_sweep_resumes_after_kill(write_sweep, tmp_path):
    path = write_sweep({"a": {"train.lr": [0.1, 0.2, 0.3]}}, workers=1)
    (tmp_path / "points" / "pause").write_text("1")
    command = [sys.executable, "-m", "edge_lib.sweep", str(path)]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: len(executed(tmp_path)) == 2)
    os.killpg(sweep.pid, signal.SIGKILL)  # the sweep and its running point
    sweep.wait()
    first, second = executed(tmp_path)
    assert [p.state for p in make_points(path)] == ["done", "pending", "pending"]

    assert main(["sweep", str(path)]) == 0
    assert executed(tmp_path)[2].split()[0] == second.split()[0]
    assert len(executed(tmp_path)) == 4
    assert first not in executed(tmp_path)[1:]
    table = pd.read_csv(tmp_path / "points" / "sweep.csv")
    assert table.query("metric == 'lr'").value.tolist() == [0.1, 0.2, 0.3]


def test_sweep_stops_its_points_when_interrupted(write_sweep, tmp_path):
    path = write_sweep({"a": {"train.lr": [0.1]}})
    (tmp_path / "points" / "pause").write_text("600")
    command = [sys.executable, "-m", "edge_lib.sweep", str(path)]
    # background jobs of a shell ignore SIGINT, and so would this child
    handle = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    sweep = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=handle)
    wait_for(lambda: executed(tmp_path))
    sweep.send_signal(signal.SIGINT)
    assert "interrupted" in sweep.communicate(timeout=60)[1].splitlines()
    assert sweep.returncode == -signal.SIGINT
    wait_for(lambda: not processes_that_mention(str(tmp_path / "points")))


def processes_that_mention(text):
    psutil = pytest.importorskip("psutil")
    commands = (" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    return [line for line in commands if text in line]


def test_by_dim_averages_matching_metrics_within_point():
    metrics = {"test.a_to_b.r1.dim8": 0.25, "test.b_to_a.r1.dim8": 0.75, "test.a_to_b.r1": 9}
    metrics |= {"test.a_to_b.r1.dim16": 0.5, "swap.group.dim8": 9}
    settings = {"grid": "g", "loss.dims": [8], "seed": 0}
    records = [
        {**settings, "point": point, "metric": name, "value": value + shift}
        for point, shift in (("p", 0), ("q", 1))
        for name, value in metrics.items()
    ]
    averaged = by_dim(pd.DataFrame(records), r"test\.\w+_to_\w+\.r1")
    assert averaged[["point", "dim", "value"]].values.tolist() == [
        ["p", 8, 0.5],
        ["p", 16, 0.5],
        ["q", 8, 1.5],
        ["q", 16, 1.5],
    ]
    assert averaged["loss.dims"].tolist() == [[8]] * 4


def test_local_sweep_imports_nothing_that_prepares_slurm_jobs(write_sweep, monkeypatch):
    path = write_sweep({"a": {"train.lr": [0.1]}})
    (point,) = make_points(path)
    point.folder.mkdir(parents=True)
    (point.folder / "metrics.json").write_text('{"lr": 0.1}')
    monkeypatch.setitem(sys.modules, "edge_lib.experiments.preparation", None)  # cannot be imported
    assert main(["sweep", str(path)]) == 0
    with pytest.raises(ImportError, match="preparation"):
        main(["sweep", str(path), "--overrides", "sweep.cluster=slurm"])
