"""A run on the tasks of one srun, which their environment makes of plain processes."""

import os
import pickle
import socket
import subprocess
import sys
import time
from itertools import count

import psutil
import pytest
import torch
from sweeps import wait_for
from torch.distributed import DistNetworkError

from edge_lib.config import ROOT, ConfigError
from edge_lib.runs import Run, nodes
from edge_lib.runs.allocation import (
    Allocation,
    check_host,
    find_allocation,
    first_host,
    tasks_per_host,
)
from edge_lib.runs.nodes import find_nodes
from edge_lib.training import node_job
from edge_lib.training.launch import WorkerError, launch
from edge_lib.training.node_job import NodeJob

UNKNOWN = "x" * 64 + ":29500"  # too long for a host name, so that no name server is asked
JOBS = count(os.getpid())  # each with a port of its own
# what a notebook does, with the exception that ends it
NOTEBOOK = """
import multiprocessing, sys
from pathlib import Path
import launch_targets as t
from edge_lib import Run, launch
from edge_lib.config import ExperimentConfig
from edge_lib.training.launch import WorkerError
from edge_lib.training import node

node.START_METHOD = "fork"
config = ExperimentConfig(name=sys.argv[2])
run = Run.create(config, "train", sys.argv[1])
options = config.launch.model_dump() | {"log_dir": run.logs}
"""


@pytest.fixture
def start(tmp_path):
    """start(rank, code, name) -> task `rank` of two, which runs code after Run.create."""
    job, tasks = str(next(JOBS)), []

    def start(rank, *code, name="same"):
        variables = {"SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
        variables |= {"SLURM_PROCID": str(rank), "SLURM_STEP_NODELIST": "localhost"}
        variables |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "\n".join([NOTEBOOK, *code]), str(tmp_path / "run"), name]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        tasks.append(subprocess.Popen(command, env=os.environ | variables, **pipes))
        return tasks[-1]

    yield start
    for task in tasks:
        task.kill()
        task.communicate()


def outputs(*tasks):
    return [task.communicate(timeout=120)[0] for task in tasks]


def test_second_task_joins_launches_of_the_first_and_runs_nothing_else(start, tmp_path):
    lines = [
        "for value in 'ab':",
        "    ranks = launch(t.report, value, **options)",
        "    print({rank: int(result['sum']) for rank, result in ranks.items()})",
        "run.save_metrics(value=1)",
        "print('the end of the notebook')",
    ]
    first, second = outputs(*(tasks := [start(rank, *lines) for rank in (0, 1)]))
    assert [task.returncode for task in tasks] == [0, 0], first + second
    results = [line for line in first.splitlines() if line.startswith("{")]
    assert results in (["{0: 3}", "{0: 3}"], ["{1: 3}", "{1: 3}"])
    assert "the end of the notebook" in first
    assert "the end of the notebook" not in second
    assert "Traceback" not in first + second
    assert "Connection" not in second
    assert Run(tmp_path / "run").metrics() == {"value": 1}
    assert {path.name for path in (tmp_path / "run/logs").glob("rank*")} == {
        "rank-0.log",
        "rank-1.log",
    }


def test_failure_on_the_second_node_is_raised_on_the_first(start):
    code = [
        "try:",
        "    launch(t.fail_on_rank_1, **options)",
        "except WorkerError as error:",
        "    print('caught', error)",
        "print(sorted(launch(t.get_rank, **options).values()))",
    ]
    first, second = outputs(*(tasks := [start(rank, *code) for rank in (0, 1)]))
    assert [task.returncode for task in tasks] == [0, 0], first + second
    assert "caught rank 1: ZeroDivisionError: rank one is broken" in first
    assert {"[0]", "[1]"} & {*first.splitlines()}, "the next launch runs"


def test_second_node_that_is_killed_is_named_on_the_first(start, tmp_path):
    code = [
        "from edge_lib.runs import nodes",
        "nodes.LOST_SECONDS = 10",
        "for _ in range(2):",
        "    try:",
        f"        launch(t.wait_for_each_other, {str(tmp_path)!r}, **options)",
        "    except WorkerError as error:",
        "        print('caught', error)",
    ]
    tasks = [start(rank, *code) for rank in (0, 1)]
    files = [tmp_path / f"pid-{rank}" for rank in (0, 1)]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), seconds=120)
    tasks[1].kill()
    first, _ = outputs(*tasks)
    line = f"caught task 1 on {socket.gethostname()} of this srun was killed, or its kernel was"
    assert first.count(line) == 2, "in the launch that ran, and in the next one"


def test_tasks_of_one_srun_with_different_experiments_are_refused(start):
    first, second = start(0, "sys.stdin.read()"), start(1, name="other")
    output = second.communicate(timeout=120)[0]
    assert second.returncode
    assert "task 1 of this srun runs train " in output
    assert "start separate runs by an srun each" in output
    first.kill()


def test_second_node_ends_with_the_first(start, tmp_path):
    tasks = [start(rank, f"launch(t.block, {str(tmp_path)!r}, **options)") for rank in (0, 1)]
    files = [tmp_path / f"pid-{rank}" for rank in (0, 1)]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), seconds=120)
    tasks[0].kill()
    pids = [int(file.read_text()) for file in files]
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), seconds=20)
    outputs(*tasks)
    assert tasks[1].returncode == 0


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n[07-09,12]-ib,m1", "n07-ib"), ("a,b[1-2]", "a"), ("r[1-2]c[03,05]", "r1c03")],
    ids=lambda text: text,
)
def test_first_host_of_a_list_of_slurm(nodes, first):
    assert first_host(nodes) == first


def test_allocation_is_that_of_the_step(monkeypatch):
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2", "SLURM_PROCID": "1"}
    for name, value in (step | {"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[3-4]"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    assert find_allocation() is None, "in a batch script or salloc"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert find_allocation() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert find_allocation() == Allocation(1, 2, f"n3:{20_000 + 37 * 7 + 2}")


@pytest.fixture
def second_of_two(monkeypatch):
    """The environment of a task whose first node has a name that cannot be resolved."""
    step = {"JOB_ID": "7", "STEP_ID": "0", "STEP_NUM_TASKS": "2", "PROCID": "1"}
    for name, value in (step | {"STEP_NODELIST": UNKNOWN.partition(":")[0]}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)


@pytest.mark.parametrize(
    ("counts", "most"), [("1", 1), ("8(x4)", 8), ("2(x3),1", 2), ("1(x2),12", 12)]
)
def test_tasks_of_a_host_of_a_list_of_slurm(counts, most):
    assert tasks_per_host(counts) == most


@pytest.mark.usefixtures("second_of_two")
def test_tasks_of_one_host_that_share_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "8(x4)")
    for name in ("GPUS_PER_TASK", "TRES_PER_TASK", "NTASKS_PER_GPU", "GPU_BIND"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_allocation().size == 2, "without GPUs"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(ConfigError, match=r"--ntasks-per-node=1 \.\.\. launch\.num_processes=8"):
        find_allocation()
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    assert find_allocation().size == 2, "a GPU for each task"


@pytest.mark.parametrize("endpoint", ["localhost:1", "127.0.0.1:0", "[127.0.0.1]:1"])
def test_host_that_resolves_is_taken(endpoint):
    check_host(endpoint)


@pytest.mark.parametrize("endpoint", [UNKNOWN, ":1", "a..b:1", "[]:1"])
def test_host_that_cannot_be_resolved_is_one_line_with_its_name(endpoint):
    with pytest.raises(ConfigError, match="set launch") as error:
        check_host(endpoint)
    assert repr(endpoint.rpartition(":")[0].strip("[]")) in str(error.value)
    assert socket.gethostname() in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("node_rank", [0, 1])
def test_launch_on_a_host_that_cannot_be_resolved_ends_at_once(node_rank):
    with pytest.raises(ConfigError, match="cannot resolve the host name 'xxx"):
        launch(print, num_nodes=2, node_rank=node_rank, rdzv_endpoint=UNKNOWN)


@pytest.mark.usefixtures("second_of_two")
def test_task_of_a_job_whose_first_node_cannot_be_resolved_fails_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(node_job, "FAILURE_SECONDS", 0)
    (tmp_path / "slurm").mkdir()
    with pytest.raises(WorkerError, match=r"^node 1: .*cannot resolve the host name 'xxx.*$"):
        NodeJob(b"", 1, 2, tmp_path, (), endpoint="")()


@pytest.mark.usefixtures("second_of_two")
def test_notebook_on_nodes_that_cannot_resolve_the_first_ends_at_once():
    with pytest.raises(ConfigError, match="cannot resolve the host name 'xxx"):
        find_nodes()


class SlowStore:
    """In which every launch has been stopped, as its answer says some time later."""

    def check(self, _keys):
        time.sleep(0.02)
        return True


def test_launch_that_has_ended_is_not_interrupted(monkeypatch):
    monkeypatch.setattr(nodes, "SECONDS", 0)
    own = object.__new__(nodes.Nodes)
    own.store = SlowStore()
    for number in range(5):
        own._run(number, pickle.dumps(len))  # fails at once
        time.sleep(0.05)


def test_launch_that_runs_is_interrupted(monkeypatch):
    monkeypatch.setattr(nodes, "SECONDS", 0)
    own = object.__new__(nodes.Nodes)
    own.store = SlowStore()
    began = time.monotonic()
    own._run(0, pickle.dumps(wait_long))
    assert time.monotonic() - began < 60


def wait_long(*_):
    for _ in range(1200):
        time.sleep(0.1)


def test_first_node_says_which_tasks_it_waits_for(monkeypatch, capfd):
    for name, seconds in {"SECONDS": 0.01, "WAIT_SECONDS": 0, "JOIN_SECONDS": 0.2}.items():
        monkeypatch.setattr(nodes, name, seconds)
    monkeypatch.setattr(nodes.atexit, "register", lambda _: None)
    own = nodes.Nodes(Allocation(0, 3, "localhost:0"), "localhost:0", hosts=True)
    own.store.set("joined-1", "")
    with pytest.raises(ConfigError, match=r"tasks \[2\] of this srun did not start"):
        own.gather("train")
    assert capfd.readouterr().out == "waiting for tasks [2] of this srun\n"


def test_node_whose_first_one_has_ended_says_so():
    class EndedStore:
        def set(self, *_):
            raise DistNetworkError("recv returned zero")

    own = object.__new__(nodes.Nodes)
    own.store, own.rank = EndedStore(), 1
    with pytest.raises(ConfigError, match="task 0 of this srun ended before it made its run"):
        own.join("train")
