"""What launched processes leave: a log for each, and the failure that explains the others."""

import math
import time
import traceback
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from edge_lib.config import ConfigError
from edge_lib.runs.files import is_full_disk
from edge_lib.training.worker import log_path


class WorkerError(RuntimeError):
    """A launched process failed. The message has its rank, its traceback and its log file.

    order: of the failures of several nodes the least is the cause, as a process that is killed
        breaks the collectives of the others, which may report that first.
    """

    order: tuple[bool, float] = (False, 0.0)


class RankLogs(LogsSpecs):
    """One log file per rank; torch's own redirects write two and do not work on macOS."""

    @property
    def root_log_dir(self) -> str:
        return self._root_log_dir

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        logs = {i: log_path(Path(self._root_log_dir), env["RANK"]) for i, env in envs.items()}
        errors = {i: log.with_suffix(".error.json") for i, log in logs.items()}
        # Files of an earlier launch would be shown or reported as this one's.
        for file in (*logs.values(), *errors.values()):
            file.unlink(missing_ok=True)
        for i, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = str(errors[i])
        no_redirect = dict.fromkeys(envs, "")  # each process redirects its own output
        return LogsDest(
            stdouts=no_redirect,
            stderrs=no_redirect,
            tee_stdouts={0: str(logs[0])},
            error_files={i: str(error) for i, error in errors.items()},
        )


def worker_error(error: ChildFailedError, logs: Path, kept: bool) -> WorkerError:
    """The first failed rank with its traceback or, without one, the last lines of its log."""
    rank, failure = error.get_first_failure()
    log = log_path(logs, rank)
    if raised := isinstance(failure.message, dict):
        cause, text = failure.message["message"], failure.message["extraInfo"]["py_callstack"]
    else:
        name = failure.signal_name() if failure.exitcode < 0 else "no Python exception"
        hint = ", often for lack of memory" if name == "SIGKILL" else ""
        hint += f", no space left on the disk of {logs}" if is_full_disk(logs) else ""
        cause = f"ended with exit code {failure.exitcode} ({name}{hint}); last lines of its log:"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else ["(none)"]
        text = "\n".join(lines[-20:])
    log_note = f"log: {log}" if kept else "log: not kept; set log_dir to keep the log of every rank"
    report = WorkerError(f"rank {rank}: {cause}\n\n{text}\n{log_note}")
    # the time of a shared disk, where the nodes' clocks may differ
    report.order = raised, Path(failure.error_file).stat().st_mtime if raised else time.time()
    return report


def as_worker_error(error: Exception, node_rank: int) -> WorkerError:
    """`error`, or one that another process can unpickle and that explains no other."""
    if isinstance(error, WorkerError):
        return error
    known = isinstance(error, ConfigError)  # its one line says what to do
    text = str(error) if known else "".join(traceback.format_exception(error))
    report = WorkerError(f"node {node_rank}: {text}")
    report.order = True, math.inf
    return report


def first_failure(failures: Iterable[WorkerError]) -> WorkerError:
    """Of the failures of several nodes, the one that explains the others."""
    return min(failures, key=attrgetter("order"))
