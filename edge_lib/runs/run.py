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

from edge_lib.config import ExperimentConfig
from edge_lib.config import ROOT
from edge_lib.config import from_root
from edge_lib.runs.environment import describe_environment
from edge_lib.runs.files import replace_text
from edge_lib.runs.files import write_json
from pathlib import Path
import json
import pandas as pd


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

    def ensure_unchanged(self, name: str, value) -> None:
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
