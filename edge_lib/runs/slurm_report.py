"""Lines on Slurm jobs: why they ended or were requeued, and what they wait for."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_lib.runs.slurm import Job

# whose lines in a log are not the program's
OTHERS = "srun:", "slurmstepd", "[IPKernelApp]", "submitit "
UNKNOWN = "its job is no longer in Slurm's queue"  # it ended some minutes ago
START = re.compile(r"\((\S+) (\S+),\d+\) - Starting with")  # submitit's line at a job's start
REQUEUES = {"is timed-out": "time limit", "is preempted": "preempted"}  # in submitit's log
CANCELLED = re.compile(r"CANCELLED AT (\S+) DUE TO (.+?) \*\*\*")  # slurmstepd's last line
ENDED_TASK = re.compile(r"^srun: error: (\S+): (tasks? \S+): (.+)$", re.MULTILINE)
CANCELLED_FOR = {
    "JOB REQUEUE": "by scontrol",
    "PREEMPTION": "preempted",
    "NODE FAILURE": "node failed",
    "TIME LIMIT": "time limit",
}


def log_file(folder: Path, job: Job) -> Path:
    """Where submitit writes the errors of a job; its output is in the same name with .out."""
    return folder / f"{job.number}_0_log.err"


@dataclass(frozen=True)
class JobEnd:
    """A job that has ended. job: as squeue shows it, None if it no longer does; last: before that;
    folder: of its log.
    """

    job: Job | None
    last: Job
    folder: Path

    @property
    def is_cut_short(self) -> bool:
        """Whether it did not come to the end of its function."""
        if self.job:
            return self.job.state not in ("COMPLETED", "FAILED")
        return self.last.state == "PENDING"

    def cause(self) -> str:
        """Why it ended, in words, and its log."""
        log = log_file(self.folder, self.last)
        cause = UNKNOWN
        if self.job:
            cause = self.job.cause
        elif self.last.state == "PENDING":
            cause = "cancelled"
        if cause == "failed" and log.exists():
            cause = self.killed_task() or _failure(_read(log).splitlines())
        return f"{cause}: see {log}" if log.exists() else cause

    def killed_task(self) -> str:
        """The task that ended first, perhaps of several nodes, if by a signal; else empty."""
        last_start = CANCELLED.split(_read(log_file(self.folder, self.last)))[-1]
        task = ENDED_TASK.search(last_start)
        if not task or task[3].startswith("Exited"):
            return ""
        hint = ", often for lack of memory" if task[3] == "Killed" else ""
        return f"{task[2]} on {task[1]}: {task[3].lower()}{hint}"


def _failure(lines: list[str]) -> str:
    """The program's error, with which a failed job's log ends."""
    own = [line.strip() for line in lines if not line.startswith(OTHERS)]
    last = next(filter(None, reversed(own)), "no message")
    return "time limit, too often" if "timed-out too many" in last else f"failed: {last}"


def was_requeued(job: Job, last: Job) -> bool:
    return job.state == "PENDING" and last.state not in ("PENDING", "SUBMITTED")


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
    )
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
