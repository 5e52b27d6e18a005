"""``launch``: results, failures, interruption, and that it leaves nothing behind."""

import contextlib
import importlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import launch_targets
import nbformat
import papermill
import psutil
import pytest
import torch

from edge_lib.config import ROOT
from edge_lib.training import launch_context
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.launch import WorkerError, launch

IMPORT_PATH = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
OPENMP = "OMP_NUM_THREADS", "GOMP_SPINCOUNT"
IMPORTS = "import launch_targets as t", "from edge_lib.training.launch import launch"


def children() -> list[int]:
    """The pids of all descendants except the resource tracker, which Python keeps after a spawn."""
    pids = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("resource_tracker" in word for word in process.cmdline()):
                pids.append(process.pid)
    return pids


def process_state() -> tuple:
    """The signal handlers, environment and import path, which a launch changes for a while."""
    signals = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    return [signal.getsignal(number) for number in signals], environment, sys.path[:]


@pytest.fixture(scope="module", autouse=True)
def _processes_are_spawned():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_lib.training.node.START_METHOD", "spawn")
        yield


@pytest.fixture(autouse=True)
def _launch_restores_everything(monkeypatch):
    for name in OPENMP:
        monkeypatch.delenv(name, raising=False)
    before = process_state(), children()
    yield
    assert process_state() == before[0]
    assert set(children()) <= set(before[1])  # joblib workers of other tests may have ended


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """One launch of two ranks: results, output shown in the cell, and the log folder."""
    logs, shown = tmp_path_factory.mktemp("logs") / "made" / "by launch", io.StringIO()
    logs.mkdir(parents=True)
    (logs / "rank-0.log").write_text("an earlier run\n")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        for name in OPENMP:
            patch.delenv(name, raising=False)
        results = launch(launch_targets.report, "ab", num_processes=2, log_dir=logs)
    return results, shown.getvalue(), logs


def test_launch_returns_results_by_rank(two_ranks):
    results, _, _ = two_ranks
    assert {rank: result["value"] for rank, result in results.items()} == {0: "ab", 1: "abab"}


def test_ranks_are_new_processes_in_one_group(two_ranks):
    results, _, _ = two_ranks
    assert all(torch.equal(result["sum"], torch.tensor(3)) for result in results.values())
    assert len({os.getpid(), *(result["pid"] for result in results.values())}) == 3


def test_cores_are_divided_among_processes(two_ranks):
    results, _, _ = two_ranks
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert all(result["omp"] == str(share) for result in results.values())
    assert all(result["threads"] == share for result in results.values())


def test_threads_wait_without_spinning_long(two_ranks):
    results, _, _ = two_ranks
    assert all(result["spins"] == "1000" for result in results.values())


def test_logs_keep_every_rank_and_show_rank_0_line_by_line(two_ranks):
    _, shown, logs = two_ranks
    lines = shown.splitlines()
    assert {"out of rank 0", "50% of rank 0", "100% of rank 0"} <= set(lines)
    assert "rank 1" not in shown
    assert "an earlier run" not in shown
    for rank in 0, 1:
        log = (logs / f"rank-{rank}.log").read_text()
        assert f"out of rank {rank}" in log
        assert f"100% of rank {rank}" in log


def test_single_process_is_new_and_keeps_the_users_thread_settings(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # fewer than the default for one process
        patch.setenv("GOMP_SPINCOUNT", "7")
        result = launch(launch_targets.report, 1)[0]
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert (result["omp"], result["threads"], result["spins"]) == ("1", 1, "7")
    assert result["pid"] != os.getpid()


def test_failed_rank_is_raised_while_the_other_waits_in_a_collective(tmp_path, capfd):
    with pytest.raises(WorkerError) as error:
        launch(launch_targets.fail_on_rank_1, num_processes=2, log_dir=tmp_path)
    message = str(error.value)
    assert message.startswith("rank 1: ZeroDivisionError: rank one is broken")
    assert "in fail_on_rank_1" in message
    assert str(tmp_path / "rank-1.log") in message
    assert "Traceback" in (tmp_path / "rank-1.log").read_text()
    out, err = capfd.readouterr()
    assert out == "before the failure, 0\n"  # not the error of the collective that broke
    assert err == ""


def test_killed_rank_is_named_with_its_signal_and_last_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(WorkerError, match=r"^rank 1: .*-9 \(SIGKILL") as error:
        launch(launch_targets.kill_rank_1, num_processes=2)
    assert "last line of rank 1" in str(error.value)
    assert list(tmp_path.iterdir()) == []  # without a log_dir nothing is kept


def test_error_file_of_an_earlier_launch_is_ignored(tmp_path):
    (tmp_path / "rank-0.error.json").write_text("{}")
    with pytest.raises(WorkerError, match="rank 0: SystemExit: 3"):
        launch(launch_targets.exit_with_code_3, log_dir=tmp_path)


def test_objects_that_cannot_be_pickled_are_refused():
    with pytest.raises(TypeError, match=r"cannot send .*<lambda> and its arguments"):
        launch(lambda: None)
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock'"):
        launch(launch_targets.print_text, threading.Lock())
    with pytest.raises(WorkerError, match="cannot send back what return_lock returned"):
        launch(launch_targets.return_lock)


def test_function_defined_in_a_cell_is_refused():
    cell = {"__name__": "__main__"}
    exec("def train(): pass", cell)
    with pytest.raises(TypeError, match="in an imported module, not in a notebook cell"):
        launch(cell["train"])


@pytest.mark.parametrize(
    "layout",
    [{"num_processes": 0}, {"num_nodes": 2, "node_rank": 2}, {"num_nodes": 2}],
    ids=["no process", "rank too high", "no endpoint"],
)
def test_impossible_layout_is_refused(layout):
    with pytest.raises(ValueError, match="num_nodes"):
        launch(launch_targets.get_rank, **layout)


def test_fewer_cores_than_processes_are_reported_once(monkeypatch, caplog):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    launch_context._warn_of_few_cores.cache_clear()
    for num_processes in (1, 2, 3, 3):
        with launch_context.child_environment(num_processes):
            pass
    (line,) = caplog.messages
    assert line.startswith(f"CPU cores of {socket.gethostname()}: 2 for 3 processes; ")


def test_children_import_from_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "just_written.py").write_text("def answer():\n    return 42\n")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(sys, "path", ["", *sys.path])
        answer = importlib.import_module("just_written").answer
        assert launch(answer) == {0: 42}


def test_launch_works_in_another_thread():
    results = {}
    thread = threading.Thread(target=lambda: results.update(launch(launch_targets.get_rank)))
    thread.start()
    thread.join()
    assert results == {0: 0}


def script(*lines: str) -> subprocess.Popen:
    """Start a Python script that calls launch; it handles SIGINT even if pytest ignores it."""
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join([*IMPORTS, *lines])],
        env=os.environ | {"PYTHONPATH": IMPORT_PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a shell starts background jobs with SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name
)
def test_stopped_parent_leaves_no_child(tmp_path, number):
    parent = script(f"launch(t.block, {str(tmp_path)!r}, num_processes=2)")
    files = [tmp_path / f"pid-{rank}" for rank in (0, 1)]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files))
    parent.send_signal(number)
    output, _ = parent.communicate(timeout=20)
    assert parent.returncode == -number
    interrupted = number == signal.SIGINT
    assert ("KeyboardInterrupt: interrupted; run the cell again" in output) == interrupted
    pids = [int(file.read_text()) for file in files]
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), seconds=0.2 if interrupted else 10)


def spawned(parent: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(parent.pid).children()
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


def test_child_of_a_parent_killed_while_it_started_does_not_run_on():
    parent = script("launch(t.print_text, 'ran')")
    wait_for(lambda: spawned(parent))  # its imports take seconds from here
    [child] = spawned(parent)
    parent.kill()
    wait_for(lambda: not child.is_running(), seconds=10)  # it imports torch for longer
    assert "ran" not in parent.communicate()[0]


def test_two_nodes_launch_twice():
    port = torch.distributed.TCPStore("localhost", 0, is_master=True).port  # a free one
    call = "launch(t.report, 1, num_nodes=2, node_rank={}, rdzv_endpoint='localhost:{}')"
    show = "print([(rank, int(r['sum'])) for rank, r in {}.items()])"
    calls = [show.format(call.format(rank, port)) for rank in (0, 1)]
    early = f"import torch; torch.distributed.TCPStore('localhost', {port}, wait_for_workers=False)"
    # Node 1 may reach the second launch first, so node 0 keeps its store open between the two.
    nodes = [script(calls[0], early, calls[0]), script(calls[1], calls[1])]
    outputs = [node.communicate(timeout=180)[0] for node in nodes]
    assert sorted(text.count("[(0, 3)]") for text in outputs) == [0, 2], outputs
    assert sorted(text.count("[(1, 3)]") for text in outputs) == [0, 2], outputs


@pytest.fixture
def execute_cells(tmp_path, monkeypatch):
    """execute_cells(source, ...) -> the executed cells and papermill's error, in tmp_path/cwd."""

    def execute(*sources):
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        cells = [nbformat.v4.new_code_cell("\n".join([*IMPORTS, source])) for source in sources]
        files = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), files[0])
        (tmp_path / "cwd").mkdir()
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", IMPORT_PATH)
            with pytest.raises(papermill.PapermillExecutionError) as error:
                papermill.execute_notebook(*files, cwd=tmp_path / "cwd", progress_bar=False)
        executed = nbformat.read(files[1], 4).cells
        return [cell for cell in executed if cell.source.startswith(IMPORTS[0])], str(error.value)

    return execute


def test_notebook_shows_output_and_the_childs_traceback(execute_cells, tmp_path):
    (good, bad), message = execute_cells(
        "launch(t.print_text, 'hello cell')",
        "launch(t.fail_on_rank_1, num_processes=2, log_dir='logs')",
    )
    assert "rank one is broken" in message
    shown = [(o.get("name"), o.get("text")) for o in good.outputs if "text" in o]
    assert shown == [("stdout", "hello cell\n")]  # nothing on stderr
    error = next(output for output in bad.outputs if output.output_type == "error")
    assert error.ename == "WorkerError"
    assert "in fail_on_rank_1" in error.evalue
    assert "before the failure, 1" in (tmp_path / "cwd/logs/rank-1.log").read_text()


def test_interrupted_training_cell_shows_one_line(execute_cells, tmp_path):
    interrupt = """
import os, pathlib, signal, threading, time, line_targets

def interrupt():
    while not pathlib.Path("blocked").exists():
        time.sleep(0.05)
    os.killpg(os.getpid(), signal.SIGINT)  # the kernel and its children, as Jupyter does

threading.Thread(target=interrupt).start()
launch(line_targets.fit_and_block, pathlib.Path.cwd())
"""
    [cell], message = execute_cells(interrupt)
    line = "stopped at step 5; run the cell again to resume from step 3"
    assert line in message
    error = next(output for output in cell.outputs if output.output_type == "error")
    assert (error.ename, error.traceback) == ("KeyboardInterrupt", [line])
    assert newest_checkpoint(tmp_path / "cwd/checkpoints").name == "step-00000003"
