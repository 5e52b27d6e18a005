"""What is read from the logs of jobs."""

import pytest

from edge_lib.runs.slurm import Job
from edge_lib.runs.slurm_report import JobEnd, queue_summary, requeue_cause

RUNNING = Job("1_0", "RUNNING")


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        ("Traceback\nValueError: no\nsrun: error: Exited\n\n", "failed: ValueError: no"),
        ("Error: Job not requeued because: timed-out too many times.", "time limit, too often"),
        (
            "warning\nsrun: error: vm: task 0: Killed\n",
            "task 0 on vm: killed, often for lack of memory",
        ),
        ("srun: error: vm: task 0: Exited\n", "failed: no message"),
        ("ValueError: no\nsubmitit WARNING (t) - Bypassing signal\n", "failed: ValueError: no"),
        ("ValueError: \udcff\n", "failed: ValueError: \ufffd"),
    ],
    ids=["error", "time limits", "killed", "no message", "submitit", "no text"],
)
def test_end_cause_is_read_from_log(tmp_path, errors, cause):
    log = tmp_path / "1_0_0_log.err"
    log.write_text(errors, errors="surrogateescape")
    job = Job("1_0", "FAILED", "NonZeroExitCode")
    assert JobEnd(job, RUNNING, tmp_path).cause() == f"{cause}: see {log}"


def test_end_cause_of_other_states_is_not_read_from_log(tmp_path):
    log = tmp_path / "1_0_0_log.err"
    log.write_text("ValueError: no\n")
    end = JobEnd(Job("1_0", "TIMEOUT"), RUNNING, tmp_path)
    assert end.cause() == f"time limit: see {log}"


@pytest.mark.parametrize(
    ("errors", "task"),
    [
        (
            "srun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Exited",
            "task 1 on n2: killed, often for lack of memory",
        ),
        ("srun: error: n2: tasks 1-3: Segmentation fault", "tasks 1-3 on n2: segmentation fault"),
        ("srun: error: n2: task 1: Exited with exit code 1\nsrun: error: n1: task 0: Killed", ""),
        (
            "srun: error: n2: task 1: Killed\n*** JOB 1 ON n2 CANCELLED AT 1 DUE TO REQUEUE ***\n",
            "",
        ),
        ("ValueError: task 1: Killed", ""),
    ],
    ids=["killed", "several", "raised", "earlier start", "other"],
)
def test_killed_task_is_the_one_that_ended_first(tmp_path, errors, task):
    (tmp_path / "1_0_0_log.err").write_text(errors)
    assert JobEnd(None, RUNNING, tmp_path).killed_task() == task


def test_killed_task_of_a_job_without_a_log_is_unknown(tmp_path):
    assert JobEnd(None, RUNNING, tmp_path).killed_task() == ""


def start(second):
    return (
        f"submitit INFO (2026-11-27 12:05:{second},077) - Starting with JobEnvironment(job_id=1)\n"
    )


def cancelled(second, reason):
    return (
        f"slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2026-11-27T12:05:{second}{reason} ***\n"
    )


@pytest.mark.parametrize(
    ("output", "errors", "cause"),
    [
        (start(10) + "preempted.\n" + start(20) + "this job is timed-out.\n", "", "time limit"),
        (start(10) + "this job is timed-out.\n" + start(20), "", "perhaps its node failed"),
        (start(10) + "this job is preempted.\n", "", "preempted"),
        (start(10), cancelled(11, " DUE TO JOB REQUEUE"), "by scontrol"),
        (start(10), cancelled(10, " DUE TO PREEMPTION"), "preempted"),
        (start(10), cancelled(11, " DUE TO NODE FAILURE, SEE LOG"), "node failure, see log"),
        (start(10) + start(20), cancelled(11, " DUE TO JOB REQUEUE"), "perhaps its node failed"),
        (start(10) + "this job is timed-out.\n", cancelled(12, " DUE TO REQUEUE"), "time limit"),
        (start(10), cancelled(11, ""), "perhaps its node failed"),
        (None, None, "perhaps its node failed"),
    ],
    ids=[
        "last start",
        "earlier start",
        "preempted",
        "scontrol",
        "same second",
        "new reason",
        "reason of earlier start",
        "submitit before slurmstepd",
        "no reason",
        "no log",
    ],
)
def test_requeue_cause_is_that_of_last_start(tmp_path, output, errors, cause):
    if output:
        (tmp_path / "1_0_0_log.out").write_text(output)
        (tmp_path / "1_0_0_log.err").write_text(errors)
    unknown = f": see {tmp_path / '1_0_0_log.err'}" if "perhaps" in cause else ""
    assert requeue_cause(Job("1_0", "PENDING"), tmp_path) == cause + unknown


def test_queue_summary_counts_states_with_reasons():
    states = [("PENDING", "Resources"), ("PENDING", "None"), ("RUNNING", "None")]
    jobs = [Job(str(number), *state) for number, state in enumerate([*states, *states[:1]])]
    assert queue_summary(jobs) == "1 pending, 2 pending (Resources), 1 running"
