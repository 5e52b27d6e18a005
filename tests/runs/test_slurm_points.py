"""Sweeps as Slurm jobs, with squeue's answers written down."""

import json
import os
from itertools import chain

import nbformat
import pytest
from fake_slurm import FakeSlurm

from edge_lib.config import ConfigError, load_config
from edge_lib.runs import job_watch, slurm_points
from edge_lib.runs.notebooks import executed_notebook
from edge_lib.runs.points import make_points
from edge_lib.runs.slurm import SlurmError
from edge_lib.runs.sweep import run_sweep

GRID = {"a": {"train.lr": [0.1, 0.2, 0.3]}}

pytestmark = pytest.mark.usefixtures("short_waits")


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

    monkeypatch.setattr(job_watch, "find_jobs", find_jobs)
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


def test_slurm_sweep_keeps_the_notebook_of_a_point_that_failed_at_once(
    write_sweep, monkeypatch, capfd
):
    path = write_sweep({"a": {"train.lr": [0.5]}}, cluster="slurm", retry=True)
    (point,) = make_points(path)
    write_failure(point)
    os.utime(executed_notebook(point.folder), (0, 0))
    slurm = FakeSlurm(monkeypatch, {0: ("FAILED",)})

    def submit(*arguments):
        write_failure(point)  # the job has already started
        return slurm.submit(*arguments)

    monkeypatch.setattr(job_watch, "submit", submit)
    run_sweep([point], load_config(path).sweep)
    assert point.state == "failed"


@pytest.fixture
def write_jobs(tmp_path):
    """write_jobs(name, points) writes what an earlier start wrote of its array."""

    def write(name, points, prepares=False):
        (tmp_path / "points" / "jobs").mkdir()
        digests = [point.folder.name for point in points]
        content = json.dumps({"prepares": digests} if prepares else digests)
        (tmp_path / "points" / "jobs" / f"{name}.json").write_text(content)

    return write


@pytest.fixture
def interrupt(monkeypatch):
    """The user interrupts after the first look at the queue."""

    def sleep(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm_points.time, "sleep", sleep)
    monkeypatch.setattr(slurm_points, "VISIBLE_SECONDS", 60)


def test_slurm_sweep_follows_jobs_of_earlier_start(write_sweep, write_jobs, monkeypatch, capfd):
    path = write_sweep(GRID, cluster="slurm")
    points = make_points(path)
    write_jobs("sweep-00000001", points)
    before = [("RUNNING",), ("CANCELLED",), ("COMPLETING",)]
    earlier = {("sweep-00000001", index): job for index, job in enumerate(before)}
    slurm = FakeSlurm(monkeypatch, earlier, {("sweep-00000001", 0): ("TIMEOUT",)})
    run_sweep(points, load_config(path).sweep)
    assert [job[1:] for job in slurm.submitted] == [(2, "")]
    submitted = path.parent / "points" / "jobs" / f"{slurm.submitted[0][0]}.json"
    assert json.loads(submitted.read_text()) == [point.folder.name for point in points[1:]]
    printed = capfd.readouterr().out
    assert "jobs followed from an earlier start: 1 (1_0)\n" in printed
    assert "'train.lr': 0.1, 'seed': 0}: time limit" in printed


def test_slurm_sweep_submits_nothing_if_all_points_have_jobs(
    write_sweep, write_jobs, monkeypatch, capfd
):
    path = write_sweep(GRID, cluster="slurm")
    points = make_points(path)
    write_jobs("sweep-00000001", points)
    pending = {("sweep-00000001", index): ("PENDING", "Priority") for index in range(3)}
    slurm = FakeSlurm(monkeypatch, pending, pending, {})
    run_sweep(points, load_config(path).sweep, print)
    assert slurm.submitted == slurm.cancelled == []
    assert "Slurm: 3 pending (Priority)" in capfd.readouterr().out


@pytest.mark.usefixtures("interrupt")
def test_slurm_sweep_cancels_jobs_of_both_starts_when_interrupted(
    write_sweep, write_jobs, monkeypatch
):
    path = write_sweep(GRID, cluster="slurm")
    points = make_points(path)
    write_jobs("sweep-00000001", points[1:])
    slurm = FakeSlurm(monkeypatch, {("sweep-00000001", 1): ("RUNNING",)})
    with pytest.raises(KeyboardInterrupt):
        run_sweep(points, load_config(path).sweep)
    assert [job[1:] for job in slurm.submitted] == [(2, "")]
    assert slurm.cancelled == [slurm.submitted[0][0], "1_1"]


@pytest.mark.parametrize(
    "error", [OSError("no space left"), SlurmError("scontrol is down")], ids=["disk", "Slurm"]
)
def test_slurm_sweep_leaves_jobs_of_an_earlier_start_after_an_error(
    write_sweep, write_jobs, monkeypatch, error
):
    path = write_sweep(GRID, cluster="slurm")
    points = make_points(path)
    write_jobs("sweep-00000001", points[1:])
    slurm = FakeSlurm(monkeypatch, {("sweep-00000001", 1): ("RUNNING",)})

    def fail():
        raise error

    monkeypatch.setattr(slurm_points, "max_array_size", fail)
    with pytest.raises(type(error)) as caught:
        run_sweep(points, load_config(path).sweep)
    assert caught.value.__notes__ == ["the Slurm jobs go on: start this again to follow them"]
    assert slurm.cancelled == []


def test_slurm_sweep_that_is_refused_leaves_jobs_of_an_earlier_start(
    write_sweep, write_jobs, monkeypatch
):
    path = write_sweep(GRID, cluster="slurm")
    points = make_points(path)
    write_jobs("sweep-00000001", points[1:])
    slurm = FakeSlurm(monkeypatch, {("sweep-00000001", 1): ("RUNNING",)})

    def refuse(*_):
        raise ConfigError("QOSMaxSubmitJobPerUserLimit")

    monkeypatch.setattr(job_watch, "submit", refuse)
    with pytest.raises(ConfigError, match="QOSMax") as caught:
        run_sweep(points, load_config(path).sweep)
    assert "1_1" not in slurm.cancelled
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.usefixtures("interrupt")
def test_slurm_sweep_takes_preparation_of_earlier_start(write_sweep, write_jobs, monkeypatch):
    path = write_sweep({"a": {"train.lr": [0.1]}}, cluster="slurm")
    write_jobs("sweep-00000001", make_points(path), prepares=True)
    slurm = FakeSlurm(monkeypatch, {("sweep-00000001", 0): ("RUNNING",)})
    with pytest.raises(KeyboardInterrupt):
        run_sweep(make_points(path), load_config(path).sweep, print)
    assert [job[1:] for job in slurm.submitted] == [(1, "afterok:1_0")]
    assert slurm.cancelled == [slurm.submitted[0][0], "1_0"]


@pytest.mark.usefixtures("interrupt")
def test_slurm_sweep_keeps_interrupt_if_cancelling_fails(one_point, monkeypatch, capfd):
    FakeSlurm(monkeypatch, {0: ("RUNNING",)})

    def fail(*_):
        raise SlurmError("still running: scancel --name=a (down)")

    monkeypatch.setattr(job_watch, "cancel", fail)
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
    names = [point.folder.name for point in points]
    assert digests[0] == {"prepares": names}
    assert [*chain(*digests[1:])] == names


def test_slurm_sweep_cancels_what_it_submitted_before_refusal(write_sweep, monkeypatch):
    slurm = FakeSlurm(monkeypatch, {})
    monkeypatch.setattr(slurm_points, "max_array_size", lambda: 2)

    def submit(functions, folder, name, *options):
        if slurm.submitted:
            raise ConfigError("job submit limit")
        return slurm.submit(functions, folder, name, *options)

    monkeypatch.setattr(job_watch, "submit", submit)
    path = write_sweep(GRID, cluster="slurm")
    with pytest.raises(ConfigError, match=r"^sweep\.slurm: job submit limit$"):
        run_sweep(make_points(path), load_config(path).sweep)
    assert slurm.submitted[0][0] in slurm.cancelled
    lists = (path.parent / "points" / "jobs").glob("*.json")
    assert [file.stem for file in lists] == [slurm.submitted[0][0]]


@pytest.mark.parametrize(
    ("gpus", "key"), [(4, r"sweep\.gpus=4"), (0, r"sweep\.slurm")], ids=["gpus", "no gpus"]
)
def test_slurm_sweep_names_the_key_of_gpus_that_are_refused(write_sweep, monkeypatch, gpus, key):
    FakeSlurm(monkeypatch, {})

    def refuse(*_):
        raise ConfigError("Invalid generic resource (gres) specification")

    monkeypatch.setattr(job_watch, "submit", refuse)
    path = write_sweep(GRID, cluster="slurm", gpus=gpus)
    with pytest.raises(ConfigError, match=f"^{key}: Invalid generic resource"):
        run_sweep(make_points(path), load_config(path).sweep)


def test_sweep_inside_an_srun_of_several_tasks_is_refused(one_point, monkeypatch):
    slurm = FakeSlurm(monkeypatch, {})
    step = {"JOB_ID": "7", "STEP_ID": "0", "STEP_NUM_TASKS": "2", "PROCID": "1"}
    for name, value in (step | {"STEP_NODELIST": "n[1-2]"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ConfigError, match="srun started 2 tasks, each of which would run"):
        one_point()
    assert slurm.submitted == []


@pytest.mark.usefixtures("interrupt")
def test_slurm_sweep_prepares_again_for_points_that_an_earlier_preparation_lacks(
    write_sweep, write_jobs, monkeypatch
):
    path = write_sweep(GRID, cluster="slurm")
    points = make_points(path)
    write_jobs("sweep-00000001", points[:2], prepares=True)
    slurm = FakeSlurm(monkeypatch, {("sweep-00000001", 0): ("RUNNING",)})
    with pytest.raises(KeyboardInterrupt):
        run_sweep(points, load_config(path).sweep, print)
    assert [job[1:] for job in slurm.submitted] == [(1, ""), (3, "afterok:1")]
