"""Sweeps of a notebook that takes no time, through papermill and submitit's processes."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from edge_lib.config import ConfigError, load_config
from edge_lib.runs.notebooks import executed as executed_notebook
from edge_lib.runs.sweep import by_dim, collect, main, make_points, run_sweep

PARAMETERS = 'config = overrides = run_dir = ""'
WORK = """
import json, os, pathlib, time
run, beside = pathlib.Path(run_dir), pathlib.Path(run_dir).parent
lr = next(float(x.split()[1]) for x in open(config) if x.strip().startswith("lr:"))
began = time.time()
with open(beside / "executed.txt", "a") as log:
    log.write(f"{run.name} {lr}\\n")
if lr == 0.5 and not (beside / "mended").exists():
    raise ValueError("this point fails")
time.sleep(float(next(open(beside / "pause"), 0)) if (beside / "pause").exists() else 0)
metrics = {"lr": lr, "threads": int(os.environ["OMP_NUM_THREADS"]), "began": began}
(run / "metrics.json").write_text(json.dumps({**metrics, "ended": time.time()}))
"""


@pytest.fixture
def sweep_of(tmp_path):
    """sweep_of(grid, seeds, ...) -> the path of a sweep's config; its points lie in tmp/points."""
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(WORK)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, tmp_path / "work.ipynb")
    (tmp_path / "points").mkdir()

    def write(grids, seeds=(0,), **options):
        about = {"notebook": str(tmp_path / "work.ipynb"), "folder": str(tmp_path / "points")}
        sweep = {**about, "grids": grids, "seeds": list(seeds), **options}
        path = tmp_path / "sweep.yaml"
        path.write_text(json.dumps({"name": "small", "sweep": sweep}))
        return path

    return write


def executed(tmp_path):
    path = tmp_path / "points" / "executed.txt"
    return path.read_text().splitlines() if path.exists() else []


def run(path, overrides=""):
    points = make_points(path, overrides)
    return points, run_sweep(points, load_config(path, overrides).sweep)


# --- the grid --------------------------------------------------------------------------------


def test_points_are_the_product_of_each_grid_and_the_seeds(sweep_of):
    grids = {"a": {"train.lr": [0.1, 0.2], "loss.dims": [[8], [8, 4]]}, "b": {}}
    points = make_points(sweep_of(grids, seeds=[0, 7]), "train.clip=2")
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


def test_a_wider_sweep_keeps_the_folders_of_a_narrower_one(sweep_of):
    few = {p.folder for p in make_points(sweep_of({"a": {"train.lr": [0.1]}}))}
    many = sweep_of({"b": {"train.lr": [0.1, 0.2]}}, seeds=[0, 1], workers=7, threads=3)
    assert few < {p.folder for p in make_points(many)}


@pytest.mark.parametrize(
    ("grid", "said"),
    [({"train.lrr": [1]}, "train.lr"), ({"train.lr": [0.1, -1]}, r"train\.lr.*greater than 0")],
)
def test_a_wrong_key_or_value_is_named_before_anything_runs(sweep_of, grid, said):
    with pytest.raises(ConfigError, match=said):
        make_points(sweep_of({"a": grid}))


def test_a_config_without_a_sweep_is_refused():
    with pytest.raises(ConfigError, match="no sweep section"):
        make_points("params/tiny/align.yaml")


# --- running ---------------------------------------------------------------------------------


def test_failed_points_are_reported_skipped_and_run_again_on_demand(sweep_of, tmp_path, capfd):
    path = sweep_of({"a": {"train.lr": [0.1, 0.5, 0.2]}}, threads=3)
    points, lost = run(path)
    assert [p.state for p in points] == ["done", "failed", "done"]
    assert [p.config.train.lr for p in lost] == [0.5]
    printed = capfd.readouterr().out
    assert f"see {executed_notebook(lost[0].folder)}" in printed
    assert "3/3 run, 1 failed, 0 s left" in printed
    assert "this point fails" in executed_notebook(lost[0].folder).read_text()

    table = collect(points)
    assert list(table.columns) == ["grid", "train.lr", "seed", "point", "metric", "value"]
    assert table.query("metric == 'lr'").value.tolist() == [0.1, 0.2]
    assert table.query("metric == 'threads'").value.tolist() == [3, 3]

    before = executed(tmp_path)
    assert [p.config.train.lr for p in run(path)[1]] == [0.5]
    assert executed(tmp_path) == before

    (tmp_path / "points" / "mended").touch()
    assert run(path, "sweep.retry=true")[1] == []
    assert executed(tmp_path) == [*before, f"{lost[0].folder.name} 0.5"]


def test_two_workers_run_two_points_at_once_and_no_more(sweep_of, tmp_path):
    (tmp_path / "points" / "pause").write_text("4")
    points, _ = run(sweep_of({"a": {"train.lr": [0.1, 0.2, 0.3]}}, workers=2))
    times = [(p.metrics()["began"], p.metrics()["ended"]) for p in points]
    together = [sum(b < moment < e for b, e in times) for moment, _ in times]
    assert max(sum(b <= moment < e for b, e in times) for moment, _ in times) == 2, together


def test_killed_and_started_again_runs_only_what_is_missing(sweep_of, tmp_path):
    path = sweep_of({"a": {"train.lr": [0.1, 0.2, 0.3]}}, workers=1)
    (tmp_path / "points" / "pause").write_text("1")
    command = [sys.executable, "-m", "edge_lib.sweep", str(path)]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: len(executed(tmp_path)) == 2)
    os.killpg(sweep.pid, signal.SIGKILL)  # the sweep and the point it was at
    sweep.wait()
    first, second = executed(tmp_path)
    assert [p.state for p in make_points(path)] == ["done", "open", "open"]

    assert main([str(path)]) == 0
    assert executed(tmp_path)[2].split()[0] == second.split()[0]
    assert len(executed(tmp_path)) == 4
    assert first not in executed(tmp_path)[1:]
    table = pd.read_csv(tmp_path / "points" / "sweep.csv")
    assert table.query("metric == 'lr'").value.tolist() == [0.1, 0.2, 0.3]


def test_interrupted_it_stops_its_points(sweep_of, tmp_path):
    path = sweep_of({"a": {"train.lr": [0.1]}})
    (tmp_path / "points" / "pause").write_text("600")
    command = [sys.executable, "-m", "edge_lib.sweep", str(path)]
    # a shell starts background jobs with SIGINT ignored, and children inherit that
    reset = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    sweep = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=reset)
    wait_for(lambda: executed(tmp_path))
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(timeout=60) != 0
    wait_for(lambda: not processes_that_mention(str(tmp_path / "points")))


def test_the_command_fails_if_a_point_does(sweep_of, tmp_path):
    assert main([str(sweep_of({"a": {"train.lr": [0.5]}}))]) == 1


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def processes_that_mention(text):
    psutil = pytest.importorskip("psutil")
    mine = (" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    return [line for line in mine if text in line]


def test_by_dim_averages_what_matches_within_a_point():
    metrics = {"test.a_to_b.r1.dim8": 0.25, "test.b_to_a.r1.dim8": 0.75, "test.a_to_b.r1": 9}
    metrics |= {"test.a_to_b.r1.dim16": 0.5, "swap.group.dim8": 9}
    about = {"grid": "g", "loss.dims": [8], "seed": 0}
    records = [
        {**about, "point": point, "metric": name, "value": value + shift}
        for point, shift in (("p", 0), ("q", 1))
        for name, value in metrics.items()
    ]
    found = by_dim(pd.DataFrame(records), r"test\.\w+_to_\w+\.r1")
    assert found[["point", "dim", "value"]].values.tolist() == [
        ["p", 8, 0.5],
        ["p", 16, 0.5],
        ["q", 8, 1.5],
        ["q", 16, 1.5],
    ]
    assert found["loss.dims"].tolist() == [[8]] * 4
