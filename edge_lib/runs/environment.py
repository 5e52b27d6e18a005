"""Versions, device and commit of a run."""

from edge_lib.config import ROOT
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version
import json
import os
import platform
import subprocess
import sys


PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "numpy", "edge-glass")


def describe_environment(seed: int) -> dict:
    """Versions, device, git commit and command line, for env.json."""
    import torch  # a second or two, which who only looks for a run's folder need not wait

    return {
        "command": " ".join(sys.argv),
        "seed": seed,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "device_count": torch.cuda.device_count(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit checked out, "-dirty" if a tracked file differs; runs/ holds results, not code."""
    git = ["git", "-C", str(ROOT)]
    questions = ["rev-parse", "HEAD"], ["diff", "--name-only", "HEAD", "--", ".", ":!runs"]
    try:
        commit, changed = (
            subprocess.run([*git, *q], capture_output=True, text=True, check=True).stdout.strip()
            for q in questions
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "-dirty" * bool(changed)
