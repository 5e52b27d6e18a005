"""Tasks as Slurm jobs: with squeue's answers written down, and on a real Slurm if it answers."""

import os
import subprocess
from functools import partial

import pytest
from fake_slurm import FakeSlurm
from slurm_helpers import on_slurm
from sweeps import wait_for
from task_targets import take_part

from edge_lib.config import ROOT, ConfigError
from edge_lib.runs import job_watch, slurm_tasks
from edge_lib.runs.slurm_tasks import SlurmTasks


@pytest.fixture
def fake(monkeypatch):
    """fake(answers) -> a FakeSlurm for tasks."""
    monkeypatch.setattr(job_watch, "LOOK_SECONDS", (0, 0))
    return partial(FakeSlurm, monkeypatch)


def submit(folder, count=2, **options):
    return SlurmTasks(print, count, folder, options)


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (("COMPLETED",), None),
        (("CANCELLED",), "cancelled"),
        (("TIMEOUT",), "time limit"),
        (("NODE_FAIL",), "node failed"),
        (("OUT_OF_MEMORY",), "out of memory"),
        (("FAILED", "NonZeroExitCode"), "failed"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_slurm_task_ends_with_cause(fake, tmp_path, job, line):
    fake({0: ("RUNNING",), 1: ("RUNNING",)}, {0: job, 1: ("RUNNING",)})
    tasks = submit(tmp_path)
    assert [*tasks.ended()] == []
    assert [*tasks.ended()] == ([f"task 1_0 ended: {line}"] if line else [])
    assert [index for _, index in tasks.running] == [1]


def test_slurm_task_cancelled_while_pending_has_ended(fake, tmp_path):
    fake({0: ("RUNNING",), 1: ("PENDING", "Resources")}, {0: ("RUNNING",)})
    tasks = submit(tmp_path)
    assert [*tasks.ended()] == []
    assert [*tasks.ended()] == ["task 1_1 ended: cancelled"]


def test_slurm_tasks_say_what_they_wait_for_once_a_minute(fake, tmp_path, monkeypatch, capsys):
    reasons = "Resources", "Priority", "Priority", "JobHeldUser"
    fake(*({0: ("PENDING", reason)} for reason in reasons), {0: ("RUNNING",)})
    tasks = submit(tmp_path, 1)
    for _ in reasons[:2]:
        assert [*tasks.ended()] == []
    monkeypatch.setattr(tasks.watch, "_next_status", 0)
    for _ in (*reasons[2:], "running"):
        assert [*tasks.ended()] == []
    lines = ["Slurm: 1 pending (Resources)", "Slurm: 1 pending (Priority)"]
    assert capsys.readouterr().out.splitlines() == ["submitted job 1", *lines]


def test_slurm_task_that_is_requeued_runs_again(fake, tmp_path, capsys):
    fake({0: ("RUNNING",)}, {0: ("PENDING", "BeginTime")}, {0: ("RUNNING",)}, {0: ("COMPLETED",)})
    tasks = submit(tmp_path, 1)
    assert [line for _ in range(4) for line in tasks.ended()] == []
    cause = f"perhaps its node failed: see {tmp_path / '1_0_0_log.err'}"
    assert f"requeued ({cause}): job 1_0" in capsys.readouterr().out.splitlines()
    assert not tasks.running


def test_slurm_tasks_go_on_while_slurm_does_not_answer(fake, tmp_path, capsys):
    fake({0: ("RUNNING",)}, "squeue: no answer", "squeue: no answer", {0: ("RUNNING",)})
    tasks = submit(tmp_path, 1)
    assert [line for _ in range(4) for line in tasks.ended()] == []
    printed = capsys.readouterr().out
    assert printed.count("squeue: no answer; waiting until it answers") == 1
    assert tasks.running


def test_second_start_follows_tasks_that_run(fake, tmp_path, capsys):
    slurm = fake({0: ("RUNNING",), 1: ("COMPLETED",)})
    first = submit(tmp_path)
    assert [*first.ended()] == []
    with submit(tmp_path) as second:
        assert second.running.keys() == first.running.keys()
        assert "jobs followed from an earlier start: 1 (1_0)\n" in capsys.readouterr().out
        assert len(slurm.submitted) == 1
        assert slurm.cancelled == []
    assert slurm.cancelled == ["1_0"]


def test_followed_tasks_are_counted_and_the_first_are_listed(fake, tmp_path, capsys):
    fake(dict.fromkeys(range(12), ("RUNNING",)))
    submit(tmp_path, 12)
    submit(tmp_path, 12)
    line = "jobs followed from an earlier start: 12 (1_0, 1_1, 1_2, 1_3, 1_4, ...)"
    assert capsys.readouterr().out.splitlines()[1:] == [line]


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (OSError(116, "Stale file handle"), True),
        (BrokenPipeError(), True),
        (ConfigError("manifest.json cannot be read"), True),
        (KeyboardInterrupt(), False),
        (SystemExit(143), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_slurm_tasks_go_on_after_an_error_of_the_driver_alone(fake, tmp_path, error, goes_on):
    slurm = fake({0: ("RUNNING",), 1: ("RUNNING",)})
    with pytest.raises(type(error)) as caught, submit(tmp_path):
        raise error
    assert slurm.cancelled == ([] if goes_on else [slurm.submitted[0][0]])
    notes = ["the Slurm jobs go on: start this again to follow them"] if goes_on else []
    assert getattr(caught.value, "__notes__", []) == notes


def test_second_start_submits_if_all_tasks_have_ended(fake, tmp_path):
    slurm = fake({0: ("COMPLETED",), 1: ("COMPLETING",)})
    submit(tmp_path)
    assert len(submit(tmp_path).running) == 2
    assert len(slurm.submitted) == 2


def test_more_tasks_than_an_array_takes_are_split(fake, tmp_path, monkeypatch):
    slurm = fake({})
    monkeypatch.setattr(slurm_tasks, "max_array_size", lambda: 2)
    assert len(submit(tmp_path, 5).running) == 5
    assert [(count, dependency) for _, count, dependency in slurm.submitted] == [
        (2, ""),
        (2, ""),
        (1, ""),
    ]


def test_slurm_tasks_refused_leave_no_record_and_cancel_what_was_submitted(
    fake, tmp_path, monkeypatch
):
    slurm = fake({})

    def refuse_second(*arguments):
        if slurm.submitted:
            raise ConfigError("invalid partition")
        return slurm.submit(*arguments)

    monkeypatch.setattr(slurm_tasks, "max_array_size", lambda: 1)
    monkeypatch.setattr(job_watch, "submit", refuse_second)
    with pytest.raises(ConfigError, match=r"^features\.slurm: invalid partition$"):
        submit(tmp_path, 2)
    names = [name for name, *_ in slurm.submitted]
    assert [path.stem for path in tmp_path.glob("*.json")] == names
    assert slurm.cancelled[:1] == names


def test_slurm_tasks_begin_with_the_users_name(fake, tmp_path):
    slurm = fake({})
    submit(tmp_path)
    submit(tmp_path, slurm_job_name="clip")
    assert [name.rpartition("-")[0] for name, *_ in slurm.submitted] == ["extract", "clip"]


@on_slurm
def test_slurm_tasks_outlive_one_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    parts = {"killed": "kill", "fine": 0.1, "waiting": 600}
    options = {"timeout_min": 30}
    tasks = SlurmTasks(partial(take_part, tmp_path, parts), 3, tmp_path, options)
    lines = []

    def two_have_ended():
        lines.extend(tasks.ended())
        return len(tasks.running) == 1

    try:
        wait_for(two_have_ended, seconds=120)
        wait_for((tmp_path / "fine").read_text)
        wait_for((tmp_path / "waiting").exists)
        (line,) = [line for line in lines if " ended: " in line]
        assert ": killed, " in line
        followed = SlurmTasks(print, 3, tmp_path, options)
        assert followed.running.keys() == tasks.running.keys()
    finally:
        tasks.watch.cancel()
    wait_for(lambda: not running(tasks.watch.names))
    assert not (tmp_path / "waiting").read_text()


def running(names):
    command = ["squeue", "--noheader", f"--name={','.join(names)}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
