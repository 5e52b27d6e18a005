"""A launch as a job of Slurm, with squeue's answers written down, and on a real Slurm."""

import json
import math
import pickle
import signal
import subprocess
import threading
from functools import partial

import launch_targets
import line_targets
import pytest
import torch
from fake_slurm import FakeSlurm
from safetensors.torch import load_file
from slurm_helpers import on_slurm
from sweeps import wait_for
from torch.distributed.elastic.multiprocessing import SignalException

from edge_lib.config import ConfigError, TrainConfig
from edge_lib.experiments.align import train_aligner
from edge_lib.features.extract import write_features
from edge_lib.runs import Run, job_watch, slurm
from edge_lib.runs.log_tail import LogTail
from edge_lib.runs.slurm import find_jobs
from edge_lib.training import launch_slurm
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.launch import WorkerError, launch
from edge_lib.training.worker import digest_of

RUNNING, DONE = {0: ("RUNNING",)}, {0: ("COMPLETED",)}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(job_watch, "LOOK_SECONDS", (0, 0))
    monkeypatch.setattr(launch_slurm, "LINE_SECONDS", 0.01)
    monkeypatch.setattr(launch_slurm, "VISIBLE_SECONDS", 0.1)


@pytest.fixture
def launch_job(monkeypatch, tmp_path):
    """launch_job(answers, outcomes) -> results; a job's nodes leave `outcomes` as it starts."""

    class Nodes(FakeSlurm):
        outcomes = ()

        def submit(self, tasks, folder, name, options, dependency):
            for rank, outcome in enumerate(self.outcomes):
                (folder / f"node-{rank}.pkl").write_bytes(pickle.dumps(outcome))
            (folder.parent / "rank-0.log").write_text("a line\n")
            return super().submit(tasks, folder, name, options, dependency)

    def run(answers, outcomes=(), value="ab", num_nodes=2):
        run.slurm = Nodes(monkeypatch, *answers)
        run.slurm.outcomes = outcomes
        options = {"num_nodes": num_nodes, "cluster": "slurm", "log_dir": tmp_path}
        return launch(launch_targets.report, value, **options)

    return run


def failure(message, *order):
    error = WorkerError(message)
    error.order = order
    return error


def test_job_returns_results_of_all_nodes_and_shows_lines_of_rank_0(launch_job, tmp_path, capfd):
    (tmp_path / "rank-0.log").write_text("of an earlier launch\n")
    answers = [{0: ("PENDING", "Priority")}, RUNNING, RUNNING, DONE]
    assert launch_job(answers, [{1: "b"}, {0: "a"}]) == {0: "a", 1: "b"}
    lines = ["Slurm: 1 pending (Priority)", "Slurm: 1 running", "a line", "submitted job 1"]
    assert sorted(capfd.readouterr().out.splitlines()) == lines


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [
        ((True, 1.0), (False, 9.0), 1),
        ((True, 2.0), (True, 1.5), 1),
        ((True, 2.0), (True, math.inf), 0),
    ],
    ids=["killed later", "earlier", "of the node"],
)
def test_failure_that_explains_the_others_is_raised(launch_job, first, second, cause):
    outcomes = [failure("rank 0", *first), failure("rank 1", *second)]
    with pytest.raises(WorkerError, match=f"rank {cause}"):
        launch_job([RUNNING, {0: ("FAILED",)}], outcomes)


@pytest.mark.parametrize(
    ("answers", "cause"),
    [
        ([RUNNING, {0: ("TIMEOUT",)}], "time limit"),
        ([{0: ("PENDING", "Resources")}, {}], "cancelled"),
        ([RUNNING, {0: ("NODE_FAIL",)}], "node failed"),
        ([RUNNING, {0: ("OUT_OF_MEMORY",)}], "out of memory"),
        ([RUNNING, {}], "its job is no longer in Slurm's queue"),
        ([RUNNING, "squeue: down", "squeue: down", {0: ("DEADLINE",)}], "deadline passed"),
    ],
    ids=["time limit", "cancelled", "node", "memory", "gone", "squeue down"],
)
def test_job_without_results_raises_why_it_ended(launch_job, answers, cause):
    with pytest.raises(WorkerError, match=f"Slurm job 1 ended without a result: {cause}"):
        launch_job(answers, [{0: "a"}])  # of two nodes


def test_requeued_job_is_followed(launch_job, capfd):
    again = {0: ("PENDING", "BeginTime")}
    assert launch_job([RUNNING, again, RUNNING, DONE], [{0: "a"}], num_nodes=1) == {0: "a"}
    assert "requeued (perhaps its node failed" in capfd.readouterr().out


def test_interrupt_cancels_the_job_and_shows_one_line(launch_job, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch_slurm.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt, match="Slurm job 1 is cancelled; run the cell again"):
        launch_job([RUNNING])
    assert launch_job.slurm.cancelled == [launch_job.slurm.submitted[0][0]]


def leave_job(folder, value):
    """A job of an earlier start, with the name "launch-00000001"."""
    (folder / "slurm").mkdir()
    digest = digest_of(launch_targets.report, (value,), 1, 1)
    (folder / "slurm/launch-00000001.json").write_text(json.dumps({"digest": digest}))
    (folder / "slurm/node-0.pkl").write_bytes(pickle.dumps({0: "earlier"}))


def test_job_of_a_killed_notebook_is_followed(launch_job, tmp_path, capfd):
    leave_job(tmp_path, "ab")
    running, done = ({("launch-00000001", 0): (state,)} for state in ("RUNNING", "COMPLETED"))
    assert launch_job([running, done], num_nodes=1) == {0: "earlier"}
    assert launch_job.slurm.submitted == []
    assert "jobs followed from an earlier start: 1 (1_0)\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("call", "state"), [("other", "RUNNING"), ("other", "COMPLETING"), ("ab", "COMPLETING")]
)
def test_earlier_job_is_cancelled_and_ends_before_the_new_one_starts(
    launch_job, tmp_path, call, state
):
    leave_job(tmp_path, call)
    answers = [{("launch-00000001", 0): (state,)}, RUNNING, DONE]
    assert launch_job(answers, [{0: "new"}], num_nodes=1) == {0: "new"}
    assert launch_job.slurm.cancelled == ["1_0"]
    assert launch_job.slurm.submitted[0][2] == "afterany:1_0"


def test_digest_of_a_call_depends_on_its_values_only():
    one, two = TrainConfig(lr=0.1, epochs=2), TrainConfig(epochs=2, lr=0.1)
    assert digest_of(print, (one,)) == digest_of(print, (two,))
    assert digest_of(print, (one,)) != digest_of(print, (TrainConfig(lr=0.2, epochs=2),))
    assert digest_of(print, (one,)) != digest_of(print, (one,), 2)


def test_job_has_a_task_on_each_node_with_a_gpu_for_each_process(monkeypatch):
    monkeypatch.setattr(slurm, "_run", lambda *_: "gpu*|gpu:h200:8\n")
    options = launch_slurm.job_options(8, 4, {"slurm_srun_args": ["--mpi=none"]})
    sizes = [options[name] for name in ("nodes", "tasks_per_node", "gpus_per_node")]
    assert sizes == [4, 1, 8]
    assert options["slurm_srun_args"] == ["--kill-on-bad-exit=1", "--mpi=none"]
    assert "gpus_per_node" not in launch_slurm.job_options(8, 4, {"slurm_gres": "gpu:h200:8"})


def test_job_is_refused_with_another_number_of_tasks_and_without_log_dir(tmp_path):
    options = {"num_nodes": 2, "cluster": "slurm"}
    with pytest.raises(ConfigError, match="needs log_dir"):
        launch(launch_targets.get_rank, **options)
    tasks = {"slurm": {"nodes": 2, "tasks_per_node": 2, "gpus_per_node": 1}}
    with pytest.raises(ConfigError, match="must be launch"):
        launch(launch_targets.get_rank, log_dir=tmp_path, **options, **tasks)


def test_log_tail_prints_whole_lines_once_and_begins_again_with_the_log(tmp_path, capfd):
    tail = LogTail(path := tmp_path / "rank-0.log")
    tail.print_new()
    for text in ("one\ntw", "o\n", "\xff"):
        with path.open("a", encoding="latin-1") as log:
            log.write(text)
        tail.print_new()
    assert capfd.readouterr().out == "one\ntwo\n"
    path.write_text("new\n")
    tail.print_new()
    assert capfd.readouterr().out == "new\n"


@pytest.mark.parametrize("size", [1, 5000], ids=str)
def test_log_tail_begins_again_with_a_longer_log_of_the_same_inode(tmp_path, capfd, size):
    tail = LogTail(path := tmp_path / "rank-0.log")
    path.write_text("first " * size + "1\ntorn")
    tail.print_new()
    capfd.readouterr()
    path.write_text("second " * 2 * size + "1\nsecond 2\n")  # in place: as a file system reuses it
    tail.print_new()
    assert capfd.readouterr().out == "second " * 2 * size + "1\nsecond 2\n"


def test_log_tail_shows_the_last_line_of_a_process_that_was_killed(tmp_path, capfd):
    tail = LogTail(path := tmp_path / "rank-0.log")
    path.write_text("one\nhalf a li")
    tail.print_new()
    tail.print_rest()
    tail.print_rest()
    assert capfd.readouterr().out == "one\nhalf a li\n"


def test_log_that_cannot_be_read_has_nothing_new(tmp_path, capfd):
    LogTail(tmp_path).print_new()  # a folder: an OSError, as of a file that is replaced
    assert capfd.readouterr().out == ""


def test_job_goes_on_after_an_error_of_the_notebook(launch_job, monkeypatch):
    def fail(_):
        raise OSError("no space left")

    monkeypatch.setattr(launch_slurm.LogTail, "print_new", fail)
    with pytest.raises(OSError, match="no space left") as caught:
        launch_job([RUNNING])
    assert caught.value.__notes__ == ["the Slurm jobs go on: start this again to follow them"]
    assert launch_job.slurm.cancelled == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"], ids=["empty", "torn", "no text"])
def test_damaged_record_is_named_before_a_job_is_submitted(launch_job, tmp_path, content):
    leave_job(tmp_path, "ab")
    (tmp_path / "slurm/launch-00000001.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"slurm/launch-00000001\.json is damaged: "):
        launch_job([RUNNING])
    assert launch_job.slurm.submitted == launch_job.slurm.cancelled == []


def test_file_that_is_no_record_names_no_job(launch_job, tmp_path):
    leave_job(tmp_path, "ab")
    (tmp_path / "slurm/launch-00000001.json").rename(tmp_path / "slurm/job.json")
    assert launch_job([RUNNING, DONE], [{0: "new"}], num_nodes=1) == {0: "new"}
    assert launch_job.slurm.cancelled == []


def test_job_is_cancelled_at_sigterm_without_a_note_that_it_goes_on(launch_job, monkeypatch):
    passed_on = []
    before = signal.signal(signal.SIGTERM, lambda number, _: passed_on.append(number))
    end = partial(signal.raise_signal, signal.SIGTERM)
    monkeypatch.setattr(launch_slurm.time, "sleep", lambda _: end())
    try:
        with pytest.raises(SignalException) as caught:
            launch_job([RUNNING])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not hasattr(caught.value, "__notes__")
    assert launch_job.slurm.cancelled == [launch_job.slurm.submitted[0][0]]
    assert passed_on == [signal.SIGTERM]


# --- a real Slurm --------------------------------------------------------------------------------

TWO_TASKS = {"nodes": 1, "tasks_per_node": 2, "timeout_min": 10}


@on_slurm
def test_two_nodes_train_like_one_process(small_align, tmp_path):
    config = small_align("train.text_dropout=0.2 train.epochs=1")
    write_features(config.data, config.feature_spec)
    one, two = (Run.create(config, "test", tmp_path / name) for name in ("one", "two"))
    job = {"num_nodes": 2, "cluster": "slurm", "slurm": TWO_TASKS, "log_dir": two.logs}
    assert sorted(launch(train_aligner, config, one.folder)) == [0]
    assert sorted(launch(train_aligner, config, two.folder, **job)) == [0, 1]
    losses = [run.history()["loss"].dropna().to_numpy() for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    expected, weights = (
        load_file(newest_checkpoint(run.checkpoints) / "model.safetensors") for run in (one, two)
    )
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], atol=2e-5, rtol=1e-3)


@on_slurm
def test_requeued_job_goes_on_from_the_checkpoint(tmp_path, capfd):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "hold").touch()
    options = {"cluster": "slurm", "slurm": {"timeout_min": 10}, "log_dir": tmp_path / "logs"}
    results = {}
    thread = threading.Thread(
        target=lambda: results.update(launch(line_targets.fit_held, tmp_path, **options))
    )
    thread.start()
    wait_for((tmp_path / "blocked").exists, seconds=120)
    (name,) = [path.stem for path in (tmp_path / "logs/slurm").glob("launch-*.json")]
    subprocess.run(["scontrol", "requeue", find_jobs([name])[name, 0].number], check=True)
    (tmp_path / "hold").unlink()
    thread.join(timeout=400)  # Slurm waits for two minutes after a requeue
    whole = tmp_path / "whole"
    (whole / "checkpoints").mkdir(parents=True)
    assert results[0] == line_targets.fit_held(whole)
    assert "resumed from step-00000003" in capfd.readouterr().out
    assert Run(tmp_path).history()["step"].tolist() == [*range(1, 31)]


@on_slurm
def test_failure_on_the_second_node_is_raised_in_the_cell(tmp_path):
    options = {"num_nodes": 2, "cluster": "slurm", "slurm": TWO_TASKS, "log_dir": tmp_path}
    with pytest.raises(WorkerError, match="rank 1: ZeroDivisionError: rank one is broken"):
        launch(launch_targets.fail_on_rank_1, **options)


@on_slurm
def test_task_that_is_killed_is_named_in_the_cell(tmp_path):
    options = {"num_nodes": 2, "cluster": "slurm", "slurm": TWO_TASKS, "log_dir": tmp_path}
    with pytest.raises(WorkerError, match=r"(^|: )task [01] on .*: killed, often"):
        launch(launch_targets.kill_task_of_rank_1, **options)
