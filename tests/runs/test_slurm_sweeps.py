"""Sweeps on a real Slurm, if it answers."""

import os
import signal
import subprocess
import sys
import threading
from functools import partial

import pytest
from slurm_helpers import on_slurm
from sweeps import executed, wait_for

from edge_lib.config import ConfigError, load_config
from edge_lib.runs.notebooks import executed_notebook
from edge_lib.runs.points import make_points
from edge_lib.runs.sweep import run_sweep

pytestmark = pytest.mark.usefixtures("short_waits")

GRID = {"a": {"train.lr": [0.1, 0.2, 0.3]}}


@pytest.fixture
def start_sweep(write_sweep, tmp_path):
    """start_sweep(grid, prepare, overrides, ...) runs a sweep in a thread: (points, thread)."""

    def start(grid=GRID, prepare=None, overrides="", **options):
        options = {"cluster": "slurm", "slurm": {"timeout_min": 30}} | options
        path = write_sweep(grid, **options)
        points, config = make_points(path, overrides), load_config(path, overrides)
        thread = threading.Thread(
            target=run_sweep, args=(points, config.sweep, prepare), daemon=True
        )
        thread.start()
        return points, thread

    yield start
    for name in job_names(tmp_path):
        subprocess.run(["scancel", f"--name={name}"], check=True)


def join(thread):
    thread.join(240)
    assert not thread.is_alive()


def job_names(tmp_path):
    return [path.stem for path in (tmp_path / "points" / "jobs").glob("*.json")]


def states(tmp_path):
    """{array index: state} of the jobs in the queue."""
    names = ",".join(job_names(tmp_path)) or "none"
    command = ["squeue", "--noheader", "--array", f"--name={names}", "--format=%K|%T"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("|") for line in output.splitlines())


def number_of(tmp_path):
    """The number of the only array."""
    command = ["squeue", "--noheader", f"--name={job_names(tmp_path)[0]}", "--format=%F"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def counted(point):
    """The steps that a point has counted."""
    path = point.folder / "step"
    return int(path.read_text()) if path.exists() else 0


@pytest.fixture
def hold(tmp_path):
    """A file that points wait for: they end when it is deleted."""
    path = tmp_path / "points" / "hold"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


@on_slurm
def test_slurm_sweep_reports_cancelled_points(start_sweep, hold, tmp_path, capfd):
    points, thread = start_sweep(workers=1)
    wait_for(lambda: counted(points[0]))
    number = number_of(tmp_path)
    subprocess.run(["scancel", f"{number}_0", f"{number}_2"], check=True)
    hold.unlink()
    join(thread)
    assert [point.state for point in points] == ["pending", "done", "pending"]
    lines = capfd.readouterr().out.splitlines()
    causes = [line.partition("seed': 0}: ")[2] for line in lines if line.startswith("no result")]
    assert sorted(cause.partition(":")[0] for cause in causes) == ["cancelled", "cancelled"]


@on_slurm
@pytest.mark.parametrize(
    ("minutes", "command", "cause"),
    [
        # what Slurm sends before a time limit; submitit takes it for a preemption if much is left
        (10, ["scancel", "--signal=USR2"], "time limit"),
        (30, ["scancel", "--signal=USR2"], "preempted"),
        (30, ["scontrol", "requeue"], "by scontrol"),
    ],
    ids=["time limit", "preemption", "scontrol"],
)
def test_slurm_sweep_goes_on_after_requeue(
    start_sweep, hold, tmp_path, capfd, minutes, command, cause
):
    grid = {"a": {"train.lr": [0.1]}}
    (point,), thread = start_sweep(grid, slurm={"timeout_min": minutes})
    wait_for(lambda: counted(point) >= 3)
    number = number_of(tmp_path)
    subprocess.run([*command, number], check=True)
    wait_for(lambda: "PENDING" in states(tmp_path).values())
    wait_for(lambda: f"requeued ({cause}" in capfd.readouterr().out)
    # Slurm waits two minutes; a start in the second of the requeue has a revoked credential
    soon = ["scontrol", "update", f"jobid={number}", "starttime=now+2"]
    subprocess.run(soon, check=True)
    hold.unlink()
    join(thread)
    assert point.metrics()["first"] >= 3
    assert len(executed(tmp_path)) == 2


@on_slurm
def test_slurm_sweep_reports_time_limits_that_come_too_often(start_sweep, hold, tmp_path, capfd):
    options = {"timeout_min": 30, "slurm_max_num_timeout": -1}
    (point,), thread = start_sweep({"a": {"train.lr": [0.1]}}, slurm=options)
    wait_for(lambda: counted(point))
    subprocess.run(["scancel", "--signal=USR2", number_of(tmp_path)], check=True)
    join(thread)
    assert "time limit, too often: see" in capfd.readouterr().out
    assert point.state == "pending"


@on_slurm
def test_slurm_sweep_follows_jobs_of_killed_driver(start_sweep, write_sweep, hold, tmp_path, capfd):
    path = write_sweep(GRID, cluster="slurm", workers=2)
    driver = subprocess.Popen([sys.executable, "-m", "edge_lib.sweep", str(path)])
    wait_for(lambda: executed(tmp_path))
    driver.kill()
    driver.wait()
    points, thread = start_sweep(workers=2)
    wait_for(lambda: "jobs followed from an earlier start: 3" in capfd.readouterr().out)
    hold.unlink()
    join(thread)
    assert [point.state for point in points] == ["done"] * 3
    assert len(executed(tmp_path)) == 3
    assert len(job_names(tmp_path)) == 1


@on_slurm
def test_slurm_sweep_cancels_jobs_when_interrupted(write_sweep, tmp_path):
    (tmp_path / "points" / "pause").write_text("600")
    path = write_sweep(GRID, cluster="slurm", workers=1)
    command = [sys.executable, "-m", "edge_lib.sweep", str(path)]
    # background jobs of a shell ignore SIGINT, and so would this child
    handle = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=handle)
    wait_for(lambda: executed(tmp_path))
    driver.send_signal(signal.SIGINT)
    assert driver.communicate(timeout=60)[1].splitlines() == ["interrupted"]
    wait_for(lambda: not states(tmp_path))
    assert {point.state for point in make_points(path)} == {"pending"}


@on_slurm
def test_slurm_sweep_runs_preparation_before_points(start_sweep, tmp_path):
    points, thread = start_sweep(prepare=partial(os.mkdir, tmp_path / "prepared"))
    wait_for((tmp_path / "prepared").exists)
    prepared = (tmp_path / "prepared").stat().st_ctime
    join(thread)
    assert all(point.metrics()["began"] > prepared for point in points)


@on_slurm
def test_slurm_sweep_does_not_start_points_without_preparation(start_sweep, tmp_path, capfd):
    points, thread = start_sweep(prepare=partial(os.mkdir, tmp_path / "points"))
    join(thread)
    assert [point.state for point in points] == ["pending"] * 3
    printed = capfd.readouterr().out
    assert "not prepared: failed: FileExistsError" in printed
    assert printed.count(": the job that it depends on failed") == 3


@on_slurm
def test_slurm_sweep_keeps_failed_notebook_if_refused(write_sweep, tmp_path):
    path = write_sweep({"a": {"train.lr": [0.5]}}, cluster="slurm")
    (point,) = make_points(path)
    run_sweep([point], load_config(path).sweep)
    assert point.state == "failed"
    sweep = load_config(path, "sweep.retry=true sweep.slurm.slurm_partition=nowhere").sweep
    with pytest.raises(ConfigError, match=r"^sweep\.slurm: invalid partition specified: nowhere;"):
        run_sweep([point], sweep)
    assert "this point fails" in executed_notebook(point.folder).read_text()
