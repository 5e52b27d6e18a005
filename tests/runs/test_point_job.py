"""A point as a process of this machine."""

import os
import signal
import subprocess
import sys

import pytest
from sweeps import wait_for

from edge_lib.runs.points import make_points

SCRIPT = """
import sys
from edge_lib.config import load_config
from edge_lib.runs.point_job import PointJob
from edge_lib.runs.points import make_points

(point,) = make_points(sys.argv[1])
PointJob(point, load_config(sys.argv[1]).sweep.notebook, 1)()
"""


def test_point_ends_with_its_kernel_when_terminated(write_sweep, tmp_path):
    """Also inside an allocation of Slurm, in which it is no job of its own."""
    path = write_sweep({"a": {"train.lr": [0.1]}})
    (tmp_path / "points" / "hold").touch()
    (point,) = make_points(path)
    counter = point.folder / "step"
    env = os.environ | {"SLURM_JOB_ID": "1", "SUBMITIT_EXECUTOR": "local"}
    job = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], env=env)
    wait_for(counter.exists)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 128 + signal.SIGTERM
    assert point.state == "pending"
    last = counter.stat().st_mtime_ns
    with pytest.raises(AssertionError, match="timed out"):
        wait_for(lambda: counter.stat().st_mtime_ns != last, seconds=1)
