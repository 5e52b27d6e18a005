"""A run folder: a config, the environment it ran in, and everything it produced.

runs/<notebook>-<name>-<config hash>/
    config.yaml     the resolved config
    env.json        versions, device, git commit, seed, command
    metrics.jsonl   one line per logged step
    metrics.json    final numbers, flat: {"test.vision_to_text.r1": 0.93, ...}
    figures/        NAME.png and its data, NAME.csv
    checkpoints/    see training/checkpoints.py
    logs/           output of every process; the lock of the process that works in the folder
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edge_lib.config import ROOT, ConfigError, ExperimentConfig, from_root
from edge_lib.config.base import relative_to_root
from edge_lib.runs.allocation import check_nodes, find_allocation
from edge_lib.runs.environment import describe_environment
from edge_lib.runs.files import absolute_path, full_disk_errors, read_json, replace_text, write_json
from edge_lib.runs.lock import lock_folder
from edge_lib.runs.parameters import check_parameters

if TYPE_CHECKING:  # a server of exports does not need it
    import pandas as pd


class Run:
    """One experiment's folder. Starting the same config again opens the same folder."""

    def __init__(self, folder: str | Path):
        self.folder = absolute_path(folder)

    @classmethod
    def create(cls, config: ExperimentConfig, notebook: str, run_dir: str | Path = "") -> "Run":
        """Create or open the run folder and save the config and the environment in it.

        `run_dir` is a notebook parameter, hence relative to the repository root; empty, the folder
        is named after the config. Raises ConfigError if papermill set an unknown parameter, or if
        the folder cannot be written, holds anything else than this config's run, or is in use
        by another process. Of several nodes that one srun started, it returns on the first.
        """
        check_parameters()
        launch = config.launch
        check_nodes(launch.num_nodes, launch.node_rank, launch.endpoint, launch.cluster)
        if find_allocation():
            from edge_lib.runs.nodes import join_nodes  # imports torch

            join_nodes(f"{notebook} {config.digest()}", launch.endpoint)
        run = cls(from_root(run_dir)) if run_dir else cls.of(config, notebook)
        try:
            run._save_config(config.to_yaml())
            run._make_folders()
            lock_folder(run.folder, launch.node_rank)
        except OSError as error:
            path, reason = error.filename or run.folder, error.strerror or error
            raise ConfigError(f"{path}: cannot create the run folder: {reason}") from None
        write_json(run.folder / "env.json", describe_environment(config.seed))
        return run

    @classmethod
    def of(cls, config: ExperimentConfig, notebook: str) -> "Run":
        """The run of `config` by `notebook`; its folder may not exist yet."""
        return cls(ROOT / "runs" / f"{notebook}-{config.name}-{config.digest()}")

    def _save_config(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = self.folder / "config.yaml"
        if saved.exists() and saved.read_bytes() != text.encode():
            raise ConfigError(
                f"{self.folder} holds a run of another config; choose another run_dir"
            )
        if not saved.exists() and (files := self._unrelated_files()):
            raise ConfigError(
                f"{self.folder} is not a run folder: it holds {files[0]}; choose another run_dir"
            )
        replace_text(saved, text)

    def _unrelated_files(self) -> list[str]:
        """Not hidden files, nor notebooks: papermill may write its output next to the run."""
        names = sorted(path.name for path in self.folder.iterdir())
        return [name for name in names if not name.startswith(".") and not name.endswith(".ipynb")]

    def part(self, name: str) -> "Run":
        """A run inside this one, with its own steps and checkpoints."""
        part = Run(self.folder / name)
        part._make_folders()
        return part

    def _make_folders(self) -> None:
        for name in ("figures", "checkpoints", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        """The folder, below the repository root if it is there."""
        return relative_to_root(self.folder)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, step: int, **metrics: float) -> None:
        """Append one line to metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        with full_disk_errors(path), path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def history(self) -> "pd.DataFrame":
        """The logged steps, one row each; empty if nothing was logged."""
        import pandas as pd

        return pd.DataFrame(self._logged() or {"step": []})

    def rewind(self, step: int) -> None:
        """Drop the steps logged after `step`: a resumed run logs them again."""
        kept = [json.dumps(metrics) + "\n" for metrics in self._logged() if metrics["step"] <= step]
        if (path := self.folder / "metrics.jsonl").exists():
            replace_text(path, "".join(kept))

    def _logged(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl; ConfigError for a damaged one."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith((b"}", b"\n")):
            lines.pop()  # a process was killed while it wrote it
        logged = []
        for number, line in enumerate(lines, 1):
            try:
                metrics = json.loads(line)
                logged.append({"step": metrics.pop("step"), **metrics})
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ConfigError(f"{path}: line {number} is damaged: {error}") from None
        return logged

    def save_metrics(self, **metrics: float) -> None:
        """Merge into metrics.json. Pass dotted keys as `**{...}`."""
        write_json(self.folder / "metrics.json", {**self.metrics(), **metrics})

    def metrics(self) -> dict:
        path = self.folder / "metrics.json"
        return read_json(path) if path.exists() else {}

    def ensure_unchanged(self, name: str, value) -> None:
        """Write `value` to NAME.json the first time; later raise ConfigError if it differs.

        For inputs that the config does not determine, such as the content of files.
        """
        self.check_unchanged(name, value)
        if not (path := self.folder / f"{name}.json").exists():
            write_json(path, value)

    def check_unchanged(self, name: str, value) -> None:
        """Like `ensure_unchanged`, without writing."""
        path = self.folder / f"{name}.json"
        if path.exists() and read_json(path) != value:
            raise ConfigError(
                f"{self.folder}: {name} changed since this run started (new data or encoders); "
                "remove the folder or choose another run_dir"
            )

    def save_figure(self, name: str, figure, table: "pd.DataFrame"):
        """Write figures/NAME.png (200 dpi) and its data, figures/NAME.csv; returns the figure."""
        path = self.folder / "figures" / f"{name}.png"
        figure.savefig(path, dpi=200, bbox_inches="tight")
        table.to_csv(path.with_suffix(".csv"), index=False)
        return figure
