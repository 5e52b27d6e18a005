"""A function that tests run as tasks, in processes of this machine or on Slurm."""

import os
import signal
import time
from pathlib import Path


def take_part(folder: Path, parts: dict[str, float | str]) -> None:
    """Take one of some parts: wait so many seconds, raise an error, or be killed."""
    for name, part in parts.items():
        try:
            (folder / name).open("x").close()
        except FileExistsError:
            continue
        print(f"took {name}")
        if part == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(part, str):
            raise ValueError(part)
        try:
            time.sleep(part)
        except SystemExit:
            (folder / name).write_text("terminated")
            raise
        (folder / name).write_text(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        return
