"""Lines on Slurm jobs: why they ended or were requeued, and what they wait for."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from edge_lib.runs.slurm import Job

# whose lines in a log are not the program's
OTHERS = "srun:", "slurmstepd", "[IPKernelApp]", "submitit "
UNKNOWN = "its job is no longer in Slurm's queue"  # it ended some minutes ago
START = re.compile(r"\((\S+) (\S+),\d+\) - Starting with")  # submitit's line at a job's start
REQUEUES = {"is timed-out": "time limit", "is preempted": "preempted"}  # in submitit's log
CANCELLED = re.compile(r"CANCELLED AT (\S+) DUE TO (.+?) \*\*\*")  # slurmstepd's last line
CANCELLED_FOR = {
    "JOB REQUEUE": "by scontrol",
    "PREEMPTION": "preempted",
    "NODE FAILURE": "node failed",
    "TIME LIMIT": "time limit",
}


def log_file(folder: Path, job: Job) -> Path:
    """Where submitit writes the errors of a job; its output is in the same name with .out."""
    return folder / f"{job.number}_0_log.err"


def is_cut_short(job: Job | None, last: Job | None) -> bool:
    """Whether an ended job did not come to the end of its function."""
    return job.state not in ("COMPLETED", "FAILED") if job else last and last.state == "PENDING"


def end_cause(job: Job | None, last: Job | None, folder: Path) -> str:
    """Why a job ended, in words, and its log. job: as it is now; last: as it was before."""
    if not (known := job or last):
        return UNKNOWN
    log = log_file(folder, known)
    cause = job.cause if job else "cancelled" if last.state == "PENDING" else UNKNOWN
    if cause == "failed" and log.exists():
        cause = _failure(log.read_text(errors="replace").splitlines())
    return f"{cause}: see {log}" if log.exists() else cause


def _failure(lines: list[str]) -> str:
    """What a failed job's log ends with: that srun's process was killed, or the program's error."""
    if any(" Killed" in line for line in lines[-3:]):
        return "killed, often for lack of memory"
    own = [line.strip() for line in lines if not line.startswith(OTHERS)]
    last = next(filter(None, reversed(own)), "no message")
    return "time limit, too often" if "timed-out too many" in last else f"failed: {last}"


def was_requeued(job: Job, last: Job | None) -> bool:
    return job.state == "PENDING" and last is not None and last.state != "PENDING"


def requeue_cause(job: Job, folder: Path) -> str:
    """What ended the last start of a job that is pending again, in words. A node that fails leaves
    no line in its log.
    """
    log = log_file(folder, job)
    output, errors = _read(log.with_suffix(".out")), _read(log)
    last_start = output.rpartition("Starting with")[2]
    causes = [cause for phrase, cause in REQUEUES.items() if phrase in last_start]
    started = max(map("T".join, START.findall(output)), default="")
    cancelled = [reason for time, reason in CANCELLED.findall(errors) if time >= started]
    causes += [CANCELLED_FOR.get(reason, reason.lower()) for reason in cancelled]
    return causes[0] if causes else f"perhaps its node failed: see {log}"


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def queue_summary(jobs: Iterable[Job]) -> str:
    """The jobs that have not ended, such as "3 pending (Resources), 2 running"."""
    counts = Counter(
        f"pending ({job.reason})"
        if job.state == "PENDING" and job.reason != "None"
        else job.state.lower()
        for job in jobs
        if not job.ended
    )
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
