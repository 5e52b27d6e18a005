"""What a user is told of Slurm jobs: why they ended or were requeued, and what they wait for."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from edge_lib.runs.slurm import Job

UNKNOWN = "Slurm no longer knows its job"  # it ended some minutes ago
REQUEUES = {"is timed-out": "time limit", "is preempted": "preempted"}  # in submitit's log


def log_file(folder: Path, job: Job) -> Path:
    """Where submitit writes the errors of a job; its output is in the same name with .out."""
    return folder / f"{job.number}_0_log.err"


def end_cause(job: Job | None, last: Job | None, folder: Path) -> str:
    """Why a job ended, in words, and its log. job: as it is now; last: as it was before."""
    if not (known := job or last):
        return UNKNOWN
    log = log_file(folder, known)
    cause = job.cause if job else "cancelled" if last.state == "PENDING" else UNKNOWN
    if cause == "failed" and (line := _last_line(log)):
        cause = "time limit, too often" if "timed-out too many" in line else f"failed: {line}"
    return f"{cause}: see {log}" if log.exists() else cause


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def was_requeued(job: Job, last: Job | None) -> bool:
    return job.state == "PENDING" and last is not None and last.state != "PENDING"


def requeue_cause(job: Job, folder: Path) -> str:
    """What ended the last start of a job that is pending again; "" if that is not known."""
    log = log_file(folder, job).with_suffix(".out")
    text = log.read_text(errors="replace") if log.exists() else ""
    last_start = text.rpartition("Starting with")[2]
    return next((cause for phrase, cause in REQUEUES.items() if phrase in last_start), "")


def queue_summary(jobs: Iterable[Job]) -> str:
    """Such as "3 pending (Resources), 2 running"."""
    counts = Counter(
        f"pending ({job.reason})"
        if job.state == "PENDING" and job.reason != "None"
        else job.state.lower()
        for job in jobs
    )
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
