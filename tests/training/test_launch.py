"""``launch``: results, failures, and what it leaves behind (nothing)."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import launch_targets
import nbformat
import papermill
import psutil
import pytest
import torch

from edge_lib.training.launch import WorkerError, launch

HERE = Path(__file__).parent
IMPORT_PATH = os.pathsep.join([str(HERE), str(HERE.parent)])
OPENMP = "OMP_NUM_THREADS", "GOMP_SPINCOUNT"
IMPORTS = "import launch_targets as t", "from edge_lib.training.launch import launch"


def children() -> list[int]:
    """Living descendants, less the resource tracker that Python keeps after any spawn."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("resource_tracker" in word for word in process.cmdline()):
                found.append(process.pid)
    return found


def state() -> tuple:
    """What of this process a launch borrows or elastic changes."""
    signals = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    return [signal.getsignal(number) for number in signals], environment, sys.path[:]


@pytest.fixture(autouse=True)
def _leaves_everything_as_it_was(monkeypatch):
    for name in OPENMP:
        monkeypatch.delenv(name, raising=False)
    before = state(), children()
    yield
    assert state() == before[0]
    assert set(children()) <= set(before[1])  # joblib's of other tests may have ended


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """One launch of two ranks: results, what the cell showed, and the log folder."""
    logs, shown = tmp_path_factory.mktemp("logs") / "made" / "by launch", io.StringIO()
    logs.mkdir(parents=True)
    (logs / "rank-0.log").write_text("an earlier run\n")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        for name in OPENMP:
            patch.delenv(name, raising=False)
        results = launch(launch_targets.report, "ab", num_processes=2, log_dir=logs)
    return results, shown.getvalue(), logs


def test_results_come_back_by_rank(two_ranks):
    results, _, _ = two_ranks
    assert {rank: result["value"] for rank, result in results.items()} == {0: "ab", 1: "abab"}


def test_ranks_are_new_processes_that_see_each_other(two_ranks):
    results, _, _ = two_ranks
    assert all(torch.equal(result["sum"], torch.tensor(3)) for result in results.values())
    assert len({os.getpid(), *(result["pid"] for result in results.values())}) == 3


def test_cores_are_shared_out(two_ranks):
    results, _, _ = two_ranks
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert all(result["omp"] == str(share) for result in results.values())
    assert all(result["threads"] == share for result in results.values())


def test_threads_soon_stop_spinning_when_they_wait(two_ranks):
    results, _, _ = two_ranks
    assert all(result["spins"] == "1000" for result in results.values())


def test_rank_0_is_shown_line_by_line_and_every_rank_kept(two_ranks):
    _, shown, logs = two_ranks
    lines = shown.splitlines()
    assert {"out of rank 0", "50% of rank 0", "100% of rank 0"} <= set(lines)
    assert "rank 1" not in shown
    assert "an earlier run" not in shown
    for rank in 0, 1:
        log = (logs / f"rank-{rank}.log").read_text()
        assert f"out of rank {rank}" in log
        assert f"100% of rank {rank}" in log


def test_one_process_takes_the_same_path_and_the_users_threads_stand(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # fewer than the cores this process would get
        patch.setenv("GOMP_SPINCOUNT", "7")
        result = launch(launch_targets.report, 1)[0]
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert (result["omp"], result["threads"], result["spins"]) == ("1", 1, "7")
    assert result["pid"] != os.getpid()


def test_a_failing_rank_is_raised_while_the_other_waits_in_a_collective(tmp_path, capfd):
    with pytest.raises(WorkerError) as error:
        launch(launch_targets.fail_on_rank_1, num_processes=2, log_dir=tmp_path)
    message = str(error.value)
    assert message.startswith("rank 1: ZeroDivisionError: rank one is broken")
    assert "in fail_on_rank_1" in message
    assert str(tmp_path / "rank-1.log") in message
    assert "Traceback" in (tmp_path / "rank-1.log").read_text()
    out, err = capfd.readouterr()
    assert out == "before the failure, 0\n"  # and no trace of the collective it broke
    assert err == ""


def test_a_killed_rank_is_named_with_its_signal_and_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(WorkerError, match=r"^rank 1: .*-9 \(SIGKILL") as error:
        launch(launch_targets.die_on_rank_1, num_processes=2)
    assert "last words of rank 1" in str(error.value)
    assert list(tmp_path.iterdir()) == []  # without a log_dir nothing is kept


def test_an_error_left_by_an_earlier_launch_is_not_blamed(tmp_path):
    (tmp_path / "rank-0.error.json").write_text("{}")
    with pytest.raises(WorkerError, match="rank 0: SystemExit: 3"):
        launch(launch_targets.leave, log_dir=tmp_path)


def test_what_cannot_be_pickled_is_refused_clearly():
    with pytest.raises(TypeError, match=r"cannot send .*<lambda> and its arguments"):
        launch(lambda: None)
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock'"):
        launch(launch_targets.say, threading.Lock())
    with pytest.raises(WorkerError, match="cannot send back what a_lock returned"):
        launch(launch_targets.a_lock)


def test_a_function_of_a_notebook_cell_is_refused():
    cell = {"__name__": "__main__"}
    exec("def train(): pass", cell)
    with pytest.raises(TypeError, match="live in edge_lib, never in a cell"):
        launch(cell["train"])


@pytest.mark.parametrize(
    "layout",
    [{"num_processes": 0}, {"num_nodes": 2, "node_rank": 2}, {"num_nodes": 2}],
)
def test_an_impossible_layout_is_refused(layout):
    with pytest.raises(ValueError, match="num_nodes"):
        launch(launch_targets.rank, **layout)


def test_children_import_from_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "just_written.py").write_text("def answer():\n    return 42\n")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(sys, "path", ["", *sys.path])
        answer = importlib.import_module("just_written").answer
        assert launch(answer) == {0: 42}


def test_it_works_off_the_main_thread():
    results = {}
    thread = threading.Thread(target=lambda: results.update(launch(launch_targets.rank)))
    thread.start()
    thread.join()
    assert results == {0: 0}


def script(*lines: str) -> subprocess.Popen:
    """A Python script that calls launch, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join([*IMPORTS, *lines])],
        env=os.environ | {"PYTHONPATH": IMPORT_PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(happens, seconds=60):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_parent_leaves_no_child(tmp_path, how):
    parent = script(f"launch(t.block, {str(tmp_path)!r}, num_processes=2)")
    files = [tmp_path / f"pid-{rank}" for rank in (0, 1)]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files))
    parent.send_signal(how)
    output, _ = parent.communicate(timeout=20)
    assert parent.returncode == -how
    assert ("KeyboardInterrupt" in output) == (how == signal.SIGINT)
    pids = [int(file.read_text()) for file in files]
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), seconds=0.2 if how == 2 else 10)


def test_two_nodes_meet_twice():
    port = torch.distributed.TCPStore("localhost", 0, is_master=True).port  # one that is free
    call = "launch(t.report, 1, num_nodes=2, node_rank={}, rdzv_endpoint='localhost:{}')"
    show = "print([(rank, int(r['sum'])) for rank, r in {}.items()])"
    calls = [show.format(call.format(rank, port)) for rank in (0, 1)]
    early = f"import torch; torch.distributed.TCPStore('localhost', {port}, wait_for_workers=False)"
    # Between the launches node 0 still serves: node 1 may already be at the second.
    nodes = [script(calls[0], early, calls[0]), script(calls[1], calls[1])]
    shown = [node.communicate(timeout=180)[0] for node in nodes]
    assert sorted(text.count("[(0, 3)]") for text in shown) == [0, 2], shown
    assert sorted(text.count("[(1, 3)]") for text in shown) == [0, 2], shown


def test_a_notebook_elsewhere_shows_output_and_the_childs_traceback(tmp_path, monkeypatch):
    code = (
        "\n".join([*IMPORTS, "launch(t.say, 'hello cell')"]),
        "launch(t.fail_on_rank_1, num_processes=2, log_dir='logs')",
    )
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(source) for source in code]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "in.ipynb")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    files = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", IMPORT_PATH)
        with pytest.raises(papermill.PapermillExecutionError, match="rank one is broken"):
            papermill.execute_notebook(*files, cwd=folder, progress_bar=False)
    good, bad = [c for c in nbformat.read(tmp_path / "out.ipynb", 4).cells if c.source in code]
    shown = [(o.get("name"), o.get("text")) for o in good.outputs if "text" in o]
    assert shown == [("stdout", "hello cell\n")]  # and nothing noisy on stderr
    error = next(output for output in bad.outputs if output.output_type == "error")
    assert error.ename == "WorkerError"
    assert "in fail_on_rank_1" in error.evalue
    assert "before the failure, 1" in (folder / "logs/rank-1.log").read_text()
