"""Tests on a real Slurm: skipped where it does not answer."""

import subprocess
from functools import cache

import pytest


@cache
def slurm_answers():
    try:
        return subprocess.run(["squeue"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def on_slurm(test):
    skip = pytest.mark.skipif(not slurm_answers(), reason="squeue does not answer")
    return pytest.mark.slurm(skip(test))
