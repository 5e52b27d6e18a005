"""What is read from the logs of jobs."""

import pytest

from edge_lib.runs.slurm import Job
from edge_lib.runs.slurm_report import end_cause, queue_summary, requeue_cause


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        ("Traceback\nValueError: no\nsrun: error: Exited\n\n", "failed: ValueError: no"),
        ("Error: Job not requeued because: timed-out too many times.", "time limit, too often"),
        ("warning\nsrun: error: vm: task 0: Killed\n", "killed, often for lack of memory"),
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
    assert end_cause(job, None, tmp_path) == f"{cause}: see {log}"


def test_end_cause_of_other_states_is_not_read_from_log(tmp_path):
    log = tmp_path / "1_0_0_log.err"
    log.write_text("ValueError: no\n")
    assert end_cause(Job("1_0", "TIMEOUT"), None, tmp_path) == f"time limit: see {log}"


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("Starting with A\npreempted.\nStarting with A\nthis job is timed-out.\n", "time limit"),
        ("Starting with A\nthis job is timed-out.\nStarting with A\n", ""),
        ("Starting with A\nthis job is preempted.\n", "preempted"),
        (None, ""),
    ],
    ids=["last", "earlier", "preempted", "no log"],
)
def test_requeue_cause_is_that_of_last_start(tmp_path, log, cause):
    if log:
        (tmp_path / "1_0_0_log.out").write_text(log)
    assert requeue_cause(Job("1_0", "PENDING"), tmp_path) == cause


def test_queue_summary_counts_states_with_reasons():
    states = [("PENDING", "Resources"), ("PENDING", "None"), ("RUNNING", "None"), ("TIMEOUT",)]
    jobs = [Job(str(number), *state) for number, state in enumerate([*states, *states[:1]])]
    assert queue_summary(jobs) == "1 pending, 2 pending (Resources), 1 running"
