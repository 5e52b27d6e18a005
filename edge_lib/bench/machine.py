"""The machine and the packages that numbers of benchmarks depend on."""

import os
import platform
import re
from pathlib import Path

import psutil
import torch

from edge_lib.runs.environment import package_version

PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "open-clip-torch",
    "onnxruntime",
    "faiss-cpu",
    "lancedb",
    "datasets",
    "pandas",
    "fastapi",
)


def describe_machine() -> dict[str, str]:
    """Processor, memory and GPU, then the versions of the packages that are installed."""
    machine = {
        "processor": processor(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
    }
    return machine | {name: own for name in PACKAGES if (own := package_version(name))}


def processor() -> str:
    """The model's name, from /proc/cpuinfo; the architecture where it is not there."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", path.read_text() if path.exists() else "", re.M)
    return names[0] if names else platform.machine()
