"""A launch as a job of Slurm, with a task on each node.

    <log_dir>/rank-<rank>.log       as of every launch; the lines of rank 0 appear in the cell
    <log_dir>/slurm/job.json        the newest job, which a notebook that is started again follows
    <log_dir>/slurm/                output of its tasks, and what they returned

A job that Slurm requeues calls the function again, which goes on from its newest checkpoint. It
outlives a notebook that is killed, while an interrupt or SIGTERM cancels it.
"""

import json
import os
import pickle
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException

from edge_lib.config import ConfigError
from edge_lib.runs.files import write_json
from edge_lib.runs.lock import hold_lock
from edge_lib.runs.log_tail import LogTail
from edge_lib.runs.slurm import Job, SlurmError, cancel, find_jobs, gpu_options, new_name, submit
from edge_lib.runs.slurm_report import (
    end_cause,
    is_cut_short,
    queue_summary,
    requeue_cause,
    was_requeued,
)
from edge_lib.training.launch_context import sigterm_raised, sigterm_restored
from edge_lib.training.launch_report import WorkerError, first_failure, one_line_interrupt
from edge_lib.training.node_job import NodeJob, outcome_file
from edge_lib.training.worker import log_path

SECONDS = 1, 10  # between two looks at the queue, at first and later
LINE_SECONDS = 0.5  # between two looks at the log
VISIBLE_SECONDS = 30  # until a file written on another node is seen here


def launch_on_slurm(job: NodeJob, digest: str, slurm: Mapping[str, Any]) -> dict[int, Any]:
    """The results of all ranks. digest: of the call; slurm: submitit's parameters.

    Raises ConfigError for parameters that Slurm refuses, WorkerError and KeyboardInterrupt.
    """
    if job.log_dir is None:
        raise ConfigError("launch.cluster=slurm needs log_dir, a folder that all nodes see")
    launch = SlurmLaunch(job, digest, job_options(job.num_processes, job.num_nodes, slurm))
    with sigterm_restored(), sigterm_raised():
        try:
            with hold_lock(launch.folder / "submit.lock"):  # of two equal calls one submits
                launch.start()
            launch.follow()
            return launch.results()
        except KeyboardInterrupt:
            message = f"interrupted, Slurm job {launch.number} is cancelled; "
            interrupt = one_line_interrupt(f"{message}run the cell again to continue")
            launch.cancel()
        except (SignalException, SystemExit):
            launch.cancel()
            raise
        except OSError as error:  # of this program or its disk
            if launch.number:
                error.add_note(f"Slurm job {launch.number} goes on: run the cell again")
            raise
    raise interrupt


class SlurmLaunch:
    """The job of a launch, and what squeue last said of it."""

    def __init__(self, task: NodeJob, digest: str, options: Mapping[str, Any]):
        self.task, self.digest, self.options = task, digest, options
        self.folder, self.tail = task.folder, LogTail(log_path(task.log_dir, 0))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = self.number = self.state = ""
        self.job: Job | None = None  # None: not in the queue
        self.last: Job | None = None  # before that
        self.answering = True

    def start(self) -> None:
        """Submit the job, or follow that of an earlier start."""
        file = self.folder / "job.json"
        earlier = json.loads(file.read_text()) if file.exists() else {"name": "", "digest": ""}
        running = self._find(earlier["name"])
        if running and running.state != "COMPLETING" and earlier["digest"] == self.digest:
            self.name, self.number = earlier["name"], running.number
            print(f"following Slurm job {self.number} of an earlier start", flush=True)
            print("it runs the code and launch.slurm of that start; cancel it to change them")
            return
        dependency = ""
        if running:  # two jobs must not train in one folder
            cancel([earlier["name"]])
            dependency = f"afterany:{running.number}"
            print(f"Slurm job {running.number} of an earlier start is cancelled", flush=True)
        for path in [*self.task.log_dir.glob("rank-*.*"), *self.folder.glob("node-*.pkl")]:
            path.unlink(missing_ok=True)
        try:
            self.name = new_name("launch", self.options)
            write_json(file, {"name": self.name, "digest": self.digest})
            self.number = submit([self.task], self.folder, self.name, self.options, dependency)
        except ConfigError as error:
            raise ConfigError(f"launch.slurm: {error}") from None

    @staticmethod
    def _find(name: str) -> Job | None:
        """The job with a name, unless it has ended."""
        job = find_jobs([name] if name else []).get((name, 0))
        return None if job is None or job.ended else job

    def follow(self) -> None:
        """Show the lines of rank 0 until the job has ended."""
        start, next_look = time.monotonic(), 0.0
        while (now := time.monotonic()) < next_look or self._runs():
            if now >= next_look:
                next_look = now + min(SECONDS[0] + (now - start) / 30, SECONDS[1])
            self.tail.print_new()
            time.sleep(LINE_SECONDS)

    def _runs(self) -> bool:
        """Look at the queue, and print what has changed."""
        try:
            job = find_jobs([self.name]).get((self.name, 0))
        except SlurmError as error:
            if self.answering:
                print(f"{error}; waiting until it answers", flush=True)
            self.answering = False
            return True
        self.answering, self.last, self.job = True, self.job or self.last, job
        if job is None or job.ended:
            return False
        if was_requeued(job, self.last):
            cause = requeue_cause(job, self.folder)
            print(f"Slurm job {self.number} was requeued ({cause})", flush=True)
        state = queue_summary([job]).removeprefix("1 ")
        if state != self.state and job.state != "COMPLETING":
            print(f"Slurm job {self.number}: {state}", flush=True)
        self.state = state
        return True

    def results(self) -> dict[int, Any]:
        """Of all ranks. WorkerError: the failure of one, or why the job ended without results."""
        files = [outcome_file(self.folder, rank) for rank in range(self.task.num_nodes)]
        end = time.monotonic() + VISIBLE_SECONDS
        cut_short = is_cut_short(self.job, self.last)
        while not cut_short and not all(f.exists() for f in files) and time.monotonic() < end:
            with suppress(OSError):
                os.listdir(self.folder)  # a network file system looks at the folder again
            time.sleep(LINE_SECONDS)
        self.tail.print_rest()
        outcomes = [pickle.loads(file.read_bytes()) for file in files if file.exists()]
        if failures := [outcome for outcome in outcomes if isinstance(outcome, WorkerError)]:
            raise first_failure(failures)
        if len(outcomes) < len(files):
            cause = end_cause(self.job, self.last, self.folder)
            raise WorkerError(f"Slurm job {self.number} ended without a result: {cause}")
        return dict(sorted((rank, result) for o in outcomes for rank, result in o.items()))

    def cancel(self) -> None:
        """Cancel the job unless it has ended; print if it cannot be."""
        if not self.name or (self.last and (self.job is None or self.job.ended)):
            return
        try:
            cancel([self.name])
        except SlurmError as error:
            print(error, flush=True)


def job_options(num_processes: int, num_nodes: int, slurm: Mapping[str, Any]) -> dict[str, Any]:
    """submitit's parameters: those of the user, a task on each node, and a GPU and a core for each
    process where the partition has GPUs. ConfigError for another number of tasks.
    """
    options = {"timeout_min": 24 * 60, "nodes": num_nodes, "tasks_per_node": 1}
    options["cpus_per_task"] = num_processes
    options |= gpu_options(num_processes, slurm) | slurm
    if options["nodes"] * options["tasks_per_node"] != num_nodes:
        raise ConfigError("launch.slurm: nodes x tasks_per_node must be launch.num_nodes")
    # without it, ranks of other nodes may wait in a collective for one that is gone
    options["slurm_srun_args"] = ["--kill-on-bad-exit=1", *slurm.get("slurm_srun_args", [])]
    return options
