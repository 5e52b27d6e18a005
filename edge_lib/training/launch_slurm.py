"""A launch as a job of Slurm, with a task on each node.

    <log_dir>/rank-<rank>.log       as of every launch; the lines of rank 0 appear in the cell
    <log_dir>/slurm/NAME.json       the digest of the call; a notebook that is started again follows
                                    the job of an equal one
    <log_dir>/slurm/                output of its tasks, and what they returned

A job that Slurm requeues calls the function again, which goes on from its newest checkpoint. It
outlives a notebook that is killed, while an interrupt or SIGTERM cancels it.
"""

import os
import pickle
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException

from edge_lib.config import ConfigError
from edge_lib.runs.interrupts import one_line_interrupt
from edge_lib.runs.job_watch import JobWatch
from edge_lib.runs.lock import hold_lock
from edge_lib.runs.log_tail import LogTail
from edge_lib.runs.slurm import cancel, gpu_options
from edge_lib.runs.slurm_report import JobEnd
from edge_lib.training.launch_context import sigterm_raised, sigterm_restored
from edge_lib.training.launch_report import WorkerError, first_failure
from edge_lib.training.node_job import NodeJob, outcome_file
from edge_lib.training.worker import log_path

LINE_SECONDS = 0.5  # between two looks at the log
VISIBLE_SECONDS = 30  # until a file written on another node is seen here


def launch_on_slurm(job: NodeJob, digest: str, slurm: Mapping[str, Any]) -> dict[int, Any]:
    """The results of all ranks. digest: of the call; slurm: submitit's parameters.

    Raises ConfigError for parameters that Slurm refuses, WorkerError and KeyboardInterrupt.
    """
    if job.log_dir is None:
        raise ConfigError("launch.cluster=slurm needs log_dir, a folder that all nodes see")
    options = job_options(job.num_processes, job.num_nodes, slurm)
    launch = SlurmLaunch(job)
    with sigterm_restored(), sigterm_raised():
        try:
            with launch.watch:
                return launch.run(digest, options)
        except KeyboardInterrupt:
            message = f"interrupted, Slurm job {launch.number} is cancelled; "
            interrupt = one_line_interrupt(f"{message}run the cell again to continue")
    raise interrupt


class SlurmLaunch:
    """The job of a launch."""

    def __init__(self, task: NodeJob):
        self.task, self.number = task, ""
        self.tail = LogTail(log_path(task.log_dir, 0))
        self.watch = JobWatch(task.folder, status_seconds=0)

    def run(self, digest: str, options: Mapping[str, Any]) -> dict[int, Any]:
        """Start the job, and return its results."""
        try:
            with hold_lock(self.task.folder / "submit.lock"):  # of two equal calls one submits
                self.start(digest, options)
            return self.results(self.follow())
        except SignalException:  # an Exception, after which the watch would let the job go on
            self.watch.cancel()
            raise

    def start(self, digest: str, options: Mapping[str, Any]) -> None:
        """Submit the job, or follow that of an earlier start."""
        earlier = self.watch.find_earlier()
        for key, (job, record) in earlier.items():
            if record["digest"] == digest and not job.completing:
                self.number = job.number
                self.watch.follow({key: job})
                print("it runs the code and launch.slurm of that start; cancel it to change them")
                return
        numbers = [job.number for job, _ in earlier.values()]
        if numbers:  # two jobs must not train in one folder
            cancel(numbers=numbers)
            print(f"cancelled Slurm jobs of an earlier start: {', '.join(numbers)}", flush=True)
        for path in [*self.task.log_dir.glob("rank-*.*"), *self.task.folder.glob("node-*.pkl")]:
            path.unlink(missing_ok=True)
        dependency = ",".join(f"afterany:{number}" for number in numbers)
        try:
            record = {"digest": digest}
            self.number, _ = self.watch.submit([self.task], "launch", options, record, dependency)
        except ConfigError as error:
            raise ConfigError(f"launch.slurm: {error}") from None

    def follow(self) -> JobEnd:
        """Show the lines of rank 0 until the job has ended."""
        while not (ends := [*self.watch.ended()]):
            self.tail.print_new()
            time.sleep(LINE_SECONDS)
        return ends[0][1]

    def results(self, end: JobEnd) -> dict[int, Any]:
        """Of all ranks. WorkerError: the failure of one, or why the job ended without results."""
        files = [outcome_file(self.task.folder, rank) for rank in range(self.task.num_nodes)]
        latest = time.monotonic() + VISIBLE_SECONDS
        while not all(file.exists() for file in files) and time.monotonic() < latest:
            if end.is_cut_short:
                break
            with suppress(OSError):
                os.listdir(self.task.folder)  # a network file system looks at the folder again
            time.sleep(LINE_SECONDS)
        self.tail.print_rest()
        outcomes = [pickle.loads(file.read_bytes()) for file in files if file.exists()]
        if failures := [outcome for outcome in outcomes if isinstance(outcome, WorkerError)]:
            killed, failure = end.killed_task(), first_failure(failures)
            raise WorkerError(f"{killed}; and then {failure}") if killed else failure
        if len(outcomes) < len(files):
            raise WorkerError(f"Slurm job {self.number} ended without a result: {end.cause()}")
        return dict(sorted((rank, result) for o in outcomes for rank, result in o.items()))


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
