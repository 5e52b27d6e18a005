"""Sweeps as Slurm jobs: with squeue's answers written down, and on a real Slurm if it answers."""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import cache, partial
from itertools import chain

import nbformat
import pytest
from sweeps import executed, wait_for

from edge_lib.config import ConfigError, load_config
from edge_lib.runs import slurm_points
from edge_lib.runs.notebooks import executed_notebook
from edge_lib.runs.points import make_points
from edge_lib.runs.slurm import Job, SlurmError
from edge_lib.runs.sweep import run_sweep

GRID = {"a": {"train.lr": [0.1, 0.2, 0.3]}}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(slurm_points, "SECONDS", (0.3, 0.3))
    monkeypatch.setattr(slurm_points, "STATUS_SECONDS", 0)
    monkeypatch.setattr(slurm_points, "VISIBLE_SECONDS", 0.5)


# --- squeue's answers written down ---------------------------------------------------------------


class FakeSlurm:
    """Takes jobs, answers what it is given, once each and the last for ever, and notes what is
    cancelled. A task without an answer is not in the queue.
    """

    def __init__(self, monkeypatch, *answers):
        self.answers, self.submitted, self.cancelled = [*answers], [], []
        for name in ("submit", "find_jobs", "cancel"):
            monkeypatch.setattr(slurm_points, name, getattr(self, name))
        monkeypatch.setattr(slurm_points, "max_array_size", lambda: 1001)

    def submit(self, functions, folder, name, options, dependency):
        self.submitted.append((name, len(functions), dependency))
        return str(len(self.submitted))

    def find_jobs(self, names):
        if not self.submitted:
            return {}
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise SlurmError(answer)
        name = self.submitted[-1][0]
        return {(name, index): Job(f"1_{index}", *job) for index, job in answer.items()}

    def cancel(self, names, numbers):
        self.cancelled += [*names, *numbers]


@pytest.fixture
def one_point(write_sweep):
    """one_point(prepare) runs a sweep of one point and returns its unfinished points."""
    path = write_sweep({"a": {"train.lr": [0.1]}}, cluster="slurm")
    points = make_points(path)

    def run(prepare=None):
        return run_sweep(points, load_config(path).sweep, prepare)

    return run


@pytest.mark.parametrize(
    ("answers", "cause"),
    [
        ([{0: ("PENDING", "Resources")}, {}], "cancelled"),
        ([{0: ("RUNNING",)}, {}], "its job is no longer in Slurm's queue"),
        ([{}], "its job is no longer in Slurm's queue"),
        ([{0: ("RUNNING",)}, {0: ("COMPLETING",)}, {0: ("TIMEOUT",)}], "time limit"),
        ([{0: ("NODE_FAIL",)}], "node failed"),
        ([{0: ("OUT_OF_MEMORY",)}], "out of memory"),
        ([{0: ("CANCELLED", "DependencyNeverSatisfied")}], "the job that it depends on failed"),
        ([{0: ("FAILED", "NonZeroExitCode")}], "failed"),
    ],
    ids=["pending", "running", "never seen", "time", "node", "memory", "dependency", "failed"],
)
def test_slurm_sweep_ends_with_cause(one_point, monkeypatch, capfd, answers, cause):
    slurm = FakeSlurm(monkeypatch, *answers)
    assert len(one_point()) == 1
    assert f"no result: {{'train.lr': 0.1, 'seed': 0}}: {cause}\n" in capfd.readouterr().out
    assert slurm.cancelled == []


def write_failure(point):
    """The notebook of a point whose cell raised."""
    point.folder.mkdir(exist_ok=True)
    metadata = {"papermill": {"exception": True}}
    nbformat.write(nbformat.v4.new_notebook(metadata=metadata), executed_notebook(point.folder))


@pytest.mark.parametrize(
    ("state", "printed"),
    [("OUT_OF_MEMORY", ["out of memory"]), ("FAILED", [])],
    ids=["memory", "raised"],
)
def test_slurm_sweep_names_cause_beside_failed_notebook(
    one_point, monkeypatch, capfd, tmp_path, state, printed
):
    slurm = FakeSlurm(monkeypatch, {0: (state,)})
    (point,) = make_points(tmp_path / "sweep.yaml")

    def find_jobs(names):
        write_failure(point)
        return slurm.find_jobs(names)

    monkeypatch.setattr(slurm_points, "find_jobs", find_jobs)
    assert [p.state for p in one_point()] == ["failed"]
    lines = capfd.readouterr().out.splitlines()
    causes = [line.partition("seed': 0}: ")[2] for line in lines if line.startswith("no result")]
    assert causes == printed


def test_slurm_sweep_names_cause_of_retry_that_did_not_start(write_sweep, monkeypatch, capfd):
    FakeSlurm(monkeypatch, {0: ("PENDING",)}, {0: ("TIMEOUT",)})
    path = write_sweep({"a": {"train.lr": [0.5]}}, cluster="slurm", retry=True)
    write_failure(point := make_points(path)[0])
    run_sweep([point], load_config(path).sweep)
    assert "no result: {'train.lr': 0.5, 'seed': 0}: time limit\n" in capfd.readouterr().out
    assert point.state == "pending"


def test_slurm_sweep_takes_preparation_of_earlier_start(write_sweep, monkeypatch, tmp_path):
    slurm = FakeSlurm(monkeypatch, {})
    (tmp_path / "points" / "jobs").mkdir()
    (tmp_path / "points" / "jobs" / "sweep-1.json").write_text("[]")
    earlier = {("sweep-1", 0): Job("7", "RUNNING")}
    monkeypatch.setattr(slurm_points, "find_jobs", lambda names: earlier)

    def sleep(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm_points.time, "sleep", sleep)
    path = write_sweep({"a": {"train.lr": [0.1]}}, cluster="slurm")
    monkeypatch.setattr(slurm_points, "VISIBLE_SECONDS", 60)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(make_points(path), load_config(path).sweep, print)
    assert [job[1:] for job in slurm.submitted] == [(1, "afterok:7")]
    assert slurm.cancelled == [slurm.submitted[0][0], "7"]


def test_slurm_sweep_keeps_interrupt_if_cancelling_fails(one_point, monkeypatch, capfd):
    FakeSlurm(monkeypatch, {0: ("RUNNING",)})

    def fail(*_):
        raise SlurmError("still running: scancel --name=a (down)")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm_points, "cancel", fail)
    monkeypatch.setattr(slurm_points.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        one_point()
    assert "still running: scancel --name=a" in capfd.readouterr().out


def test_slurm_sweep_submits_nothing_if_slurm_takes_no_arrays(one_point, monkeypatch):
    slurm = FakeSlurm(monkeypatch, {})

    def refuse():
        raise ConfigError("this Slurm takes no job arrays: its MaxArraySize is 0")

    monkeypatch.setattr(slurm_points, "max_array_size", refuse)
    with pytest.raises(ConfigError, match="no job arrays"):
        one_point(print)
    assert slurm.submitted == []


def test_slurm_sweep_waits_while_squeue_does_not_answer(one_point, monkeypatch, capfd):
    running, down = {0: ("RUNNING",)}, "squeue: Unable to contact slurm controller"
    FakeSlurm(monkeypatch, running, down, down, running, down, {0: ("TIMEOUT",)})
    one_point()
    printed = capfd.readouterr().out
    assert printed.count(f"{down}; waiting until it answers") == 2
    assert "time limit" in printed


def test_slurm_sweep_follows_requeued_job(one_point, monkeypatch, capfd):
    states = ["RUNNING", "COMPLETING", "PENDING", "RUNNING", "REQUEUED", "PENDING", "CANCELLED"]
    FakeSlurm(monkeypatch, *({0: (state,)} for state in states))
    one_point()
    printed = capfd.readouterr().out
    assert printed.count("requeued (") == 2
    assert ": cancelled" in printed


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        ("Traceback\nValueError: no\nsrun: error: Exited\n\n", "failed: ValueError: no: see "),
        ("Error: Job not requeued because: timed-out too many times.", "time limit, too often"),
        ("warning\nsrun: error: vm: task 0: Killed\n", "killed, often for lack of memory: see "),
        ("srun: error: vm: task 0: Exited\n", "failed: no message: see "),
    ],
    ids=["error", "time limits", "killed", "no message"],
)
def test_slurm_sweep_reads_cause_from_log(one_point, tmp_path, monkeypatch, capfd, errors, cause):
    FakeSlurm(monkeypatch, {0: ("FAILED",)})
    jobs = tmp_path / "points" / "jobs"
    jobs.mkdir()
    (jobs / "1_0_0_log.err").write_text(errors)
    one_point()
    assert f": {cause}" in capfd.readouterr().out


def test_slurm_sweep_names_cause_of_last_requeue(one_point, tmp_path, monkeypatch, capfd):
    FakeSlurm(monkeypatch, {0: ("RUNNING",)}, {0: ("PENDING",)}, {0: ("CANCELLED",)})
    jobs = tmp_path / "points" / "jobs"
    jobs.mkdir()
    log = "Starting with A\nthis job is preempted.\nStarting with A\nthis job is timed-out.\n"
    (jobs / "1_0_0_log.out").write_text(log)
    one_point()
    assert "requeued (time limit): {'train.lr': 0.1, 'seed': 0}" in capfd.readouterr().out


def test_slurm_sweep_splits_arrays_that_run_one_after_the_other(write_sweep, monkeypatch, tmp_path):
    slurm = FakeSlurm(monkeypatch, {})
    monkeypatch.setattr(slurm_points, "max_array_size", lambda: 2)
    grid = {"a": {"train.lr": [0.1, 0.2, 0.3, 0.4, 0.6]}}
    path = write_sweep(grid, cluster="slurm")
    run_sweep(points := make_points(path), load_config(path).sweep, print)
    sizes = [(number, dependency) for _, number, dependency in slurm.submitted]
    assert sizes == [
        (1, ""),
        (2, "afterok:1"),
        (2, "afterok:1,afterany:2"),
        (1, "afterok:1,afterany:3"),
    ]
    files = [tmp_path / "points" / "jobs" / f"{name}.json" for name, *_ in slurm.submitted]
    digests = [json.loads(file.read_text()) for file in files]
    assert [*chain(*digests)] == [point.folder.name for point in points]


def test_slurm_sweep_cancels_what_it_submitted_before_refusal(write_sweep, monkeypatch):
    slurm = FakeSlurm(monkeypatch, {})
    monkeypatch.setattr(slurm_points, "max_array_size", lambda: 2)

    def submit(functions, folder, name, *options):
        if slurm.submitted:
            raise ConfigError("job submit limit")
        return slurm.submit(functions, folder, name, *options)

    monkeypatch.setattr(slurm_points, "submit", submit)
    path = write_sweep(GRID, cluster="slurm")
    with pytest.raises(ConfigError, match=r"^sweep\.slurm: job submit limit$"):
        run_sweep(make_points(path), load_config(path).sweep)
    assert slurm.submitted[0][0] in slurm.cancelled
    lists = (path.parent / "points" / "jobs").glob("*.json")
    assert [file.stem for file in lists] == [slurm.submitted[0][0]]


# --- a real Slurm --------------------------------------------------------------------------------


@cache
def slurm_answers():
    try:
        return subprocess.run(["squeue"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def on_slurm(test):
    skip = pytest.mark.skipif(not slurm_answers(), reason="squeue does not answer")
    return pytest.mark.slurm(skip(test))


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
    thread.join(120)
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
def test_slurm_sweep_tells_cancelled_points(start_sweep, hold, tmp_path, capfd):
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
@pytest.mark.parametrize("limit", [True, False], ids=["time limit", "scontrol"])
def test_slurm_sweep_goes_on_after_requeue(start_sweep, hold, tmp_path, capfd, limit):
    (point,), thread = start_sweep({"a": {"train.lr": [0.1]}})
    wait_for(lambda: counted(point) >= 3)
    number = number_of(tmp_path)
    signalled = ["scancel", "--signal=USR2", number]  # what Slurm sends before a time limit
    subprocess.run(signalled if limit else ["scontrol", "requeue", number], check=True)
    wait_for(lambda: "PENDING" in states(tmp_path).values())
    wait_for(lambda: "requeued (" in capfd.readouterr().out)
    # Slurm waits two minutes; a start in the second of the requeue has a revoked credential
    soon = ["scontrol", "update", f"jobid={number}", "starttime=now+2"]
    subprocess.run(soon, check=True)
    hold.unlink()
    join(thread)
    assert point.metrics()["first"] >= 3
    assert len(executed(tmp_path)) == 2


@on_slurm
def test_slurm_sweep_tells_time_limits_that_come_too_often(start_sweep, hold, tmp_path, capfd):
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
    wait_for(lambda: "following 3 jobs of an earlier start" in capfd.readouterr().out)
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
