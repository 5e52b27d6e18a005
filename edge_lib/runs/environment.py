"""Package versions, device and git commit of a run."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from edge_lib.config import ROOT

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "numpy", "edge-glass")


def describe_environment(seed: int) -> dict:
    """Versions, device, git commit and command line, for env.json."""
    import torch  # takes a second or two, which `Run(folder)` does not need

    return {
        "command": " ".join(sys.argv),
        "seed": seed,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "device_count": torch.cuda.device_count(),
        **{name: package_version(name) for name in PACKAGES},
    }


def package_version(package: str) -> str | None:
    """None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit checked out, with "-dirty" if a tracked file outside runs/ differs."""
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("diff", "--name-only", "HEAD", "--", ".", ":!runs")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "-dirty" * bool(changes)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
