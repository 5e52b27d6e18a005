"""Jobs on Slurm: submitted through submitit, followed and cancelled by name.

Only squeue shows whether a job has ended. Accounting, which submitit reads, may not exist and does
not hold a job that was cancelled while it was pending; a result file may come from an earlier start
of a job that was requeued. A name is chosen before sbatch is called, so that a program which is
killed meanwhile can find its jobs again, and one that is interrupted can cancel them.
"""

import contextlib
import io
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import submitit
from submitit.helpers import DelayedSubmission

from edge_lib.config import ConfigError

NAMES = "name", "slurm_name", "slurm_job_name"  # in options: how the names of jobs begin
OWN_FLAGS = {  # of sbatch, and the option that sets each
    "job-name": "slurm_job_name",
    "dependency": "slurm_dependency",
    "array": "slurm_array_parallelism",
}
TIMEOUT = 60  # seconds for a command of Slurm
CAUSES = {  # of the states in which a job has ended
    "COMPLETED": "ended",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
    "TIMEOUT": "time limit",
    "NODE_FAIL": "node failed",
    "OUT_OF_MEMORY": "out of memory",
    "PREEMPTED": "preempted",
    "BOOT_FAIL": "node did not start",
    "DEADLINE": "deadline passed",
    "REVOKED": "moved to another cluster",
}
REASONS = {  # that say more than the state
    "DependencyNeverSatisfied": "the job that it depends on failed",
    "OutOfMemory": "out of memory",
    "JobLaunchFailure": "killed, or not launched",
}


Key = tuple[str, int]  # a job's name, and its index in an array or 0


class SlurmError(ConfigError):
    """Slurm did not answer: nothing is known of the jobs. The message is one line."""


@dataclass(frozen=True)
class Job:
    """A job, or one task of an array, as squeue shows it."""

    number: str  # "12", or "12_3" in an array
    state: str  # as squeue writes it, or SUBMITTED: not seen yet
    reason: str = ""  # why it is pending, or why it ended

    @property
    def ended(self) -> bool:
        """False for a job that was requeued: it will run again."""
        return self.state in CAUSES

    @property
    def completing(self) -> bool:
        """Whether its processes are being ended, which may write until then, or have just ended."""
        return self.state == "COMPLETING"

    @property
    def cause(self) -> str:
        """Why an ended job ended, in words."""
        return REASONS.get(self.reason) or CAUSES[self.state]


def new_name(default: str, options: Mapping[str, Any]) -> str:
    """A job name that no other job has; it begins with that of the options, or with `default`.
    ConfigError if squeue could not search for it.
    """
    prefix = next((str(options[key]) for key in NAMES if key in options), default)
    if not re.fullmatch(r"[\w.-]+", prefix):
        raise ConfigError(
            f"job name {prefix!r}: only letters, numbers, '_', '.' and '-' are allowed"
        )
    return f"{prefix}-{uuid4().hex[:8]}"


def find_jobs(names: Iterable[str]) -> dict[Key, Job]:
    """The jobs in Slurm with these names.

    Slurm deletes an ended job after some minutes, and at once a task that is cancelled while it is
    pending: a job that is not here has ended. Raises SlurmError.
    """
    if not (names := ",".join(names)):
        return {}
    # settings of the user, such as SQUEUE_PARTITION, would hide jobs
    env = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    options = "--noheader", "--array", "--states=all", "--format=%F|%K|%T|%j|%r"
    output = _run("squeue", *options, f"--name={names}", env=env)
    return dict(_read_line(line) for line in output.splitlines())


def _read_line(line: str) -> tuple[Key, Job]:
    number, index, state, name, reason = line.split("|", 4)
    if not index.isdecimal():  # N/A: no array
        return (name, 0), Job(number, state, reason)
    return (name, int(index)), Job(f"{number}_{index}", state, reason)


@dataclass(frozen=True)
class _Resumable:
    """A function that submitit requeues before a time limit and when its job is preempted."""

    function: Callable[[], Any]

    def __call__(self) -> Any:
        return self.function()

    def checkpoint(self) -> DelayedSubmission:
        return DelayedSubmission(self)


def submit(
    functions: Sequence[Callable[[], Any]],
    folder: Path,
    name: str,
    options: Mapping[str, Any],
    dependency: str = "",
) -> str:
    """Submit a job, or several as one array, and return its number.

    functions: they go on from where they were when they are called again, as happens after a time
        limit (`slurm_max_num_timeout` times, 3 by default), a preemption or the loss of a node.
    options: of submitit's AutoExecutor. dependency: as of sbatch; a job whose dependency cannot be
        satisfied is cancelled.
    Raises ConfigError, one line, if submitit or sbatch refuses.
    """
    try:
        parameters = _parameters(name, options, dependency)
        limit = {"slurm_max_num_timeout": parameters.pop("slurm_max_num_timeout", 3)}
        with _outer_job_hidden(), contextlib.redirect_stderr(io.StringIO()):
            executor = submitit.AutoExecutor(folder, cluster="slurm", **limit)
            executor.update_parameters(**parameters)
            jobs = executor.submit_array([_Resumable(function) for function in functions])
    except Exception as error:  # of submitit: of many types
        raise ConfigError(_one_line(error)) from None
    return jobs[0].job_id.split("_")[0]


def _parameters(name: str, options: Mapping[str, Any], dependency: str) -> dict[str, Any]:
    """Of submitit's executor. ConfigError for a flag of sbatch that these functions need."""
    parameters = {key: value for key, value in options.items() if key not in NAMES}
    flags = {"requeue": True, "kill-on-invalid-dep": "yes"}
    flags |= options.get("slurm_additional_parameters", {})
    if "no-requeue" in flags:
        del flags["requeue"]  # sbatch takes the last of both
    for flag in flags:
        if own := OWN_FLAGS.get(flag.replace("_", "-")):
            raise ConfigError(f"slurm_additional_parameters.{flag} is not allowed; use {own}")
    parameters |= {"name": name, "slurm_additional_parameters": flags}
    dependencies = [*filter(None, [options.get("slurm_dependency"), dependency])]
    return parameters | ({"slurm_dependency": ",".join(dependencies)} if dependencies else {})


def _one_line(error: Exception) -> str:
    """The message of submitit, or all of sbatch's, as one line."""
    lines = [line.removeprefix("sbatch: error: ").strip() for line in str(error).splitlines()]
    if not isinstance(error, submitit.core.utils.FailedJobError):
        lines = lines[:1]  # the others list all parameters
    return "; ".join(filter(None, lines)) or type(error).__name__


def cancel(names: Iterable[str] = (), numbers: Iterable[str] = ()) -> None:
    """Cancel jobs by name, whether sbatch has returned or not, or by number.

    Raises SlurmError with the commands that failed, after all of them.
    """
    numbers, errors = [*numbers], []
    for targets in [[f"--name={name}"] for name in names] + ([numbers] if numbers else []):
        try:
            _run("scancel", *targets)
        except ConfigError as error:
            errors.append(f"still running: scancel {' '.join(targets)} ({error})")
    if errors:
        raise SlurmError("; ".join(errors))


def max_array_size() -> int:
    """The number of tasks of the largest array. ConfigError if Slurm takes no arrays."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", _run("scontrol", "show", "config"))
    size = int(match[1]) if match else 1001  # Slurm's default
    if not size:
        raise ConfigError("this Slurm takes no job arrays: its MaxArraySize is 0")
    return size


def gpu_options(count: int, options: Mapping[str, Any]) -> dict[str, int]:
    """Asks for `count` GPUs a node if the partition of the options, or the default one, has some,
    and the options do not say themselves.
    """
    flags = options.get("slurm_additional_parameters", {})
    if any("gpu" in name or "gres" in name for name in [*options, *flags]):
        return {}
    partition = options.get("slurm_partition")
    selection = [f"--partition={partition}"] if partition else []
    lines = _run("sinfo", "--noheader", "--format=%P|%G", *selection).splitlines()
    has_gpus = any("gpu" in line for line in lines if partition or "*|" in line)
    return {"gpus_per_node": count} if has_gpus else {}


@contextlib.contextmanager
def _outer_job_hidden() -> Iterator[None]:
    """Hide the variables of a job that this program runs in, such as a notebook's: srun would take
    its memory and CPUs for those of the new job.
    """
    before = dict(os.environ)
    for name in before:
        if (name.startswith("SLURM_") and name != "SLURM_CONF") or name == "SBATCH_JOB_NAME":
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def _run(*command: str, env: Mapping[str, str] | None = None) -> str:
    options = {"capture_output": True, "text": True, "timeout": TIMEOUT, "check": True}
    try:
        return subprocess.run(command, env=env, **options).stdout
    except FileNotFoundError:
        raise ConfigError(f"Slurm: no command {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer in {TIMEOUT} s") from None
    except subprocess.CalledProcessError as error:
        message = "; ".join(error.stderr.split("\n")).strip("; ")
        raise SlurmError(f"{command[0]}: {message or error.returncode}") from None
