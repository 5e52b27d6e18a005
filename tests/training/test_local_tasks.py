"""Independent processes: one that fails or is killed ends no other; all end with their parent."""

import os
import subprocess
import sys
import time
from functools import partial
from multiprocessing.context import SpawnProcess

import psutil
import pytest
from sweeps import wait_for
from task_targets import take_part

from edge_lib.config import ROOT
from edge_lib.training.local_tasks import LocalTasks

PARENT = """
import sys, time

if __name__ == "__main__":  # tasks import what is above, as a console script
    from functools import partial
    from pathlib import Path
    from task_targets import take_part
    from edge_lib.training.local_tasks import LocalTasks

    folder = Path(sys.argv[1])
    tasks = LocalTasks(partial(take_part, folder, {"a": 600, "b": 600}), 2, folder)
    print(*(process.pid for process in tasks.running.values()), flush=True)
    time.sleep(600)
"""


def test_task_that_dies_ends_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    (tmp_path / "task-0.log").write_text("of an earlier start")
    parts = {"killed": "kill", "raising": "no luck", "fine": 0.5, "waiting": 600}
    tasks, lines = LocalTasks(partial(take_part, tmp_path, parts), 4, tmp_path), []
    waiting = [*tasks.running.values()]

    def one_is_left():
        lines.extend(tasks.ended())
        return len(tasks.running) == 1

    with tasks:
        wait_for(one_is_left)
    logs = {path: path.read_text() for path in tmp_path.glob("task-*.log")}
    killed, raising = (
        next(path for path in logs if logs[path].startswith(f"took {name}\n"))
        for name in ("killed", "raising")
    )
    assert sorted(lines) == sorted(
        [
            f"{killed.stem} ended: SIGKILL: see {killed}",
            f"{raising.stem} ended: ValueError: no luck: see {raising}",
        ]
    )
    assert (tmp_path / "fine").read_text().split()[1] in ("4", "7")  # a GPU each
    assert not any(process.is_alive() for process in waiting)
    assert (tmp_path / "waiting").read_text() == "terminated"


@pytest.mark.parametrize("started", [True, False])
def test_tasks_end_with_their_killed_parent(tmp_path, started):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, script, tmp_path]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    pids = [*map(int, parent.stdout.readline().split())]
    if started:
        wait_for(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
    parent.kill()  # else while the tasks import what they need, which takes seconds
    parent.wait()
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), seconds=5)


def test_tasks_end_if_starting_them_is_interrupted(tmp_path, monkeypatch):
    start, started = SpawnProcess.start, []

    def interrupt(process):
        if len(started) == 2:
            raise KeyboardInterrupt
        start(process)
        started.append(process)

    monkeypatch.setattr(SpawnProcess, "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        LocalTasks(partial(time.sleep, 600), 4, tmp_path)
    assert [process.is_alive() for process in started] == [False, False]
