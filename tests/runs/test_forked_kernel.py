"""Points of a local sweep whose kernels are forks: shared imports, deaths, launches."""

import json
import sys

import pytest

from edge_lib.config import load_config
from edge_lib.runs.notebooks import executed_notebook
from edge_lib.runs.points import make_points
from edge_lib.runs.sweep import run_here

CODE = """
%matplotlib inline
import json, os, pathlib, signal, sys, time
import counted_import
import psutil
import no_such_module_before
run = pathlib.Path(run_dir)
lr = next(float(x.split()[1]) for x in open(config) if x.strip().startswith("lr:"))
server = psutil.Process(os.getppid()).ppid()
victims = {0.5: os.getpid(), 0.6: os.getppid(), 0.7: server}
if lr in victims:
    os.kill(victims[lr], signal.SIGKILL)
    time.sleep(60)
facts = {"lr": lr, "pid": os.getpid(), "session": os.getsid(0), "argv": sys.argv[0]}
(run / "metrics.json").write_text(json.dumps(facts))
"""
LAUNCHES = """
import json, os
import launch_targets as targets
from edge_lib.training.launch import WorkerError, launch
results = launch(targets.report, 1, num_processes=2, log_dir=run_dir + "/logs")
launch(targets.print_text, "hello cell")
try:
    launch(targets.kill_rank_1, num_processes=2)
except WorkerError as error:
    failure = str(error)
pids = [r["pid"] for r in results.values()]
sums = [int(r["sum"]) for r in results.values()]
metrics = {"pids": pids, "sums": sums, "failure": failure, "pid": os.getpid()}
metrics["parents"] = list(launch(os.getppid).values())
json.dump(metrics, open(run_dir + "/metrics.json", "w"))
"""
MODULE = """
import os, pathlib
with (pathlib.Path(__file__).parent / "imported").open("a") as file:
    print(os.getpid(), file=file)
"""


@pytest.fixture
def run(write_notebook, tmp_path, monkeypatch):
    """run(learning rates, fork, code, workers) -> points that have run, and why each ended."""
    (tmp_path / "counted_import.py").write_text(MODULE)
    (tmp_path / "no_such_module_before.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    path = tmp_path / "sweep.yaml"

    def execute(rates, fork=True, code=CODE, workers=4):
        sweep = {"notebook": str(write_notebook(code)), "folder": str(tmp_path / "points")}
        sweep |= {"grids": {"a": {"train.lr": rates}}, "seeds": [0], "workers": workers}
        path.write_text(json.dumps({"name": "small", "sweep": sweep}))
        points = make_points(path)
        causes = {p.config.train.lr: c for p, c in run_here(points, load_config(path).sweep, fork)}
        return points, causes

    return execute


def imports(folder):
    return [int(line) for line in (folder / "imported").read_text().splitlines()]


def test_kernels_are_processes_of_their_own_that_share_the_imports(run, tmp_path):
    points, _ = run([0.1, 0.2])
    facts = [point.metrics() for point in points]
    assert [fact["lr"] for fact in facts] == [0.1, 0.2]
    pids = [fact["pid"] for fact in facts]
    assert len({*pids}) == 2
    assert [fact["session"] for fact in facts] == pids
    assert len(imports(tmp_path)) == 1
    assert imports(tmp_path)[0] not in pids
    assert {fact["argv"].rsplit("/")[-1] for fact in facts} == {"ipykernel_launcher.py"}
    assert all(executed_notebook(point.folder).exists() for point in points)


def test_without_forks_each_kernel_imports(run, tmp_path):
    points, _ = run([0.1, 0.2], fork=False)
    assert sorted(imports(tmp_path)) == sorted(point.metrics()["pid"] for point in points)


def test_dead_kernel_or_point_takes_only_itself(run, tmp_path):
    points, causes = run([0.1, 0.5, 0.6, 0.2])
    assert [point.state for point in points] == ["done", "pending", "pending", "done"]
    log = tmp_path / "points" / "jobs" / f"{points[1].folder.name}.log"
    assert causes[0.5] == f"see {log}"
    assert "Kernel died" in log.read_text()
    assert causes[0.6].startswith("killed by SIGKILL, see ")


def test_server_that_dies_takes_only_what_runs(run, tmp_path):
    points, causes = run([0.7, 0.1, 0.2], workers=1)
    assert [point.state for point in points] == ["pending", "done", "done"]
    log = tmp_path / "points" / "jobs" / "server.log"
    assert causes[0.7] == f"the process that starts points ended, see {log}"
    assert len(imports(tmp_path)) == 2


def test_launch_forks_a_forked_kernel_and_reports_as_ever(run):
    [point], _ = run([0.1], code=LAUNCHES)
    metrics = point.metrics()
    assert metrics["sums"] == [3, 3]
    assert metrics["parents"] == [metrics["pid"]]
    assert len({metrics["pid"], *metrics["pids"]}) == 3
    assert metrics["failure"].startswith("rank 1: ended with exit code -9 (SIGKILL")
    assert "last line of rank 1" in metrics["failure"]
    cell = json.loads(executed_notebook(point.folder).read_text())["cells"][-1]
    shown = "".join(line for output in cell["outputs"] for line in output.get("text", []))
    assert "hello cell\n" in shown
    assert "rank 1" not in shown
    assert "out of rank 1" in (point.folder / "logs/rank-1.log").read_text()
