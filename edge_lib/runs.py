"""A run folder: what was run, on what, and all that came out of it.

runs/<notebook>-<name>-<config hash>/
    config.yaml     the resolved config
    env.json        versions, device, git commit, seed, command
    metrics.jsonl   one line per logged step
    metrics.json    final numbers, flat: {"test.vision_to_text.r1": 0.93, ...}
    figures/        NAME.png with the NAME.csv behind it
    checkpoints/    see checkpoint.py
    logs/           what every process printed
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from edge_lib.config import ROOT, ExperimentConfig, from_root

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "numpy", "edge-glass")


class Run:
    """One experiment's folder. The same config started again opens the same folder."""

    def __init__(self, folder: str | Path):
        self.folder = from_root(folder)

    @classmethod
    def create(cls, config: ExperimentConfig, notebook: str, folder: str | Path = "") -> "Run":
        """Make (or open) the run's folder and write down its config and environment."""
        run = cls(folder) if folder else cls.of(config, notebook)
        run._make_folders()
        previous = run.folder / "config.yaml"
        if previous.exists() and previous.read_text() != config.to_yaml():
            raise FileExistsError(f"{run.folder} holds a run of another config; choose another")
        previous.write_text(config.to_yaml())
        write_json(run.folder / "env.json", describe_environment(config.seed))
        return run

    @classmethod
    def of(cls, config: ExperimentConfig, notebook: str) -> "Run":
        """The run that `notebook` makes of a config, whether it is there or not."""
        return cls(ROOT / "runs" / f"{notebook}-{config.name}-{config.digest()}")

    def part(self, name: str) -> "Run":
        """A run inside this one, with steps and checkpoints of its own."""
        part = Run(self.folder / name)
        part._make_folders()
        return part

    def _make_folders(self) -> None:
        for name in ("figures", "checkpoints", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, step: int, **metrics: float) -> None:
        """Append one line to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def history(self) -> pd.DataFrame:
        """The logged steps, one row a line; empty if nothing was logged."""
        path = self.folder / "metrics.jsonl"
        return pd.read_json(path, lines=True) if path.exists() else pd.DataFrame({"step": []})

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`, before a resumed run logs it again."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            # a killed process may leave half a line
            whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            replace_text(path, "".join(line + "\n" for line in kept))

    def save_metrics(self, **metrics: float) -> dict:
        """Merge into metrics.json and return all of it. Keys may hold dots: pass `**{...}`."""
        merged = {**self.metrics(), **metrics}
        write_json(self.folder / "metrics.json", merged)
        return merged

    def metrics(self) -> dict:
        path = self.folder / "metrics.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def remember(self, name: str, value) -> None:
        """Write NAME.json the first time; later raise if the value is not what it was.

        For what a run rests on that its config does not show, such as the content of files.
        """
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_json(path, value)
        elif json.loads(path.read_text()) != value:
            raise ValueError(
                f"{self.folder}: its {name} are no longer what they were when it began (data or "
                "encoders changed); remove the folder, or give another run_dir"
            )

    def save_figure(self, name: str, figure, table: pd.DataFrame) -> Path:
        """Write figures/NAME.png (200 dpi) and the numbers behind it as figures/NAME.csv."""
        path = self.folder / "figures" / f"{name}.png"
        figure.savefig(path, dpi=200, bbox_inches="tight")
        table.to_csv(path.with_suffix(".csv"), index=False)
        return path


def read_saved(folder: str | Path, name: str) -> dict:
    """What `save_pretrained` wrote of a model into folder/name. FileNotFoundError says where else
    there is one."""
    folder = from_root(folder)
    if not (folder / name).is_file():
        inside = sorted(path.parent for path in folder.glob(f"**/checkpoints/best/{name}"))
        hint = f"; there is one in {', '.join(map(str, inside))}" if inside else ""
        raise FileNotFoundError(f"{folder}: no saved model (no {name}){hint}")
    return json.loads((folder / name).read_text())


def write_json(path: Path, content) -> None:
    replace_text(path, json.dumps(content, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` at the end, whole or not at all: a reader or a kill
    never meets half a file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """As `whole_file`, a folder; what was there before makes room at the end."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
