"""Run a notebook headlessly into a run folder, once: what sweeps and prerequisites are made of."""

from edge_lib.config import AlignerSource
from edge_lib.config import ExperimentConfig
from edge_lib.config import load_config
from edge_lib.runs.run import Run
from filelock import FileLock
from pathlib import Path
import nbformat
import papermill


def execute(notebook: Path, folder: Path, config: ExperimentConfig) -> None:
    """Execute `notebook` with `config` into `folder`, unless it is done; whoever comes second
    waits. Raises papermill's PapermillExecutionError; folder/notebook.ipynb then shows the cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if state(folder) == "done":
            return
        (folder / "config.yaml").write_text(config.to_yaml())
        parameters = {"config": str(folder / "config.yaml"), "run_dir": str(folder)}
        papermill.execute_notebook(notebook, executed(folder), parameters, progress_bar=False)


def executed(folder: Path) -> Path:
    """Where the executed notebook lies."""
    return folder / "notebook.ipynb"


def state(folder: Path) -> str:
    """done: there are metrics; failed: the notebook holds an error; else open, perhaps killed."""
    if (folder / "metrics.json").exists():
        return "done"
    if not executed(folder).exists():
        return "open"
    try:
        about = nbformat.read(executed(folder), 4).metadata.get("papermill", {})
    except ValueError:  # killed while papermill wrote it
        return "open"
    return "failed" if about.get("exception") else "open"


def find_aligner(source: AlignerSource) -> Path:
    """The folder of the aligner that `source` names. If its run is not there, it is made first."""
    if source.folder:
        return source.folder
    config = load_config(source.config, source.overrides)
    run = Run.of(config, source.notebook.stem)
    if state(run.folder) != "done":
        print(f"{run.folder} is not there: running {source.notebook.name} first")
        print(f"what its processes say: {run.logs}", flush=True)
        execute(source.notebook, run.folder, config)
    return run.checkpoints / "best"
