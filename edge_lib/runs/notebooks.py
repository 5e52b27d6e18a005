"""Run a notebook headlessly, once per run folder: for sweeps, and for a missing aligner."""

from pathlib import Path

import nbformat
import papermill

from edge_lib.config import AlignerSource, ConfigError, ExperimentConfig, load_config
from edge_lib.config.overrides import Overrides
from edge_lib.runs.files import replace_text
from edge_lib.runs.lock import hold_lock
from edge_lib.runs.progress import headless_environment
from edge_lib.runs.run import Run


def execute_notebook(
    notebook: Path, folder: Path, config: ExperimentConfig, overrides: Overrides = ""
) -> None:
    """Execute `notebook` with `config` in the run folder unless it is done; a second caller waits.

    overrides: of keys that change no result, which a run's config.yaml lacks.
    Sets every parameter, so that values saved in an open notebook have no effect. Raises
    papermill's PapermillExecutionError; the executed notebook shows the failed cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / ".lock"):
        if run_state(folder) == "done":
            return
        executed_notebook(folder).unlink(missing_ok=True)  # of an earlier failure
        config_file = folder / "config.yaml"
        replace_text(config_file, config.to_yaml())
        parameters = {"config": str(config_file), "overrides": overrides, "run_dir": str(folder)}
        paths = _literal(notebook), _literal(executed_notebook(folder))
        with headless_environment():
            papermill.execute_notebook(*paths, parameters, progress_bar=False)


def _literal(path: Path) -> str:
    """papermill takes braces in a path for a parameter."""
    return str(path).replace("{", "{{").replace("}", "}}")


def executed_notebook(folder: Path) -> Path:
    """The path of a run folder's executed notebook."""
    return folder / "notebook.ipynb"


def run_state(folder: Path) -> str:
    """`done` if metrics exist, `failed` if the notebook raised, else `pending` (new or killed)."""
    if (folder / "metrics.json").exists():
        return "done"
    if not executed_notebook(folder).exists():
        return "pending"
    try:
        metadata = nbformat.read(executed_notebook(folder), 4).metadata.get("papermill", {})
    except ValueError:  # papermill was killed while writing it
        return "pending"
    return "failed" if metadata.get("exception") else "pending"


def run_error(folder: Path) -> str:
    """The first line of what an executed notebook raised; empty if it raised nothing."""
    try:
        cells = nbformat.read(executed_notebook(folder), 4).cells
    except (OSError, ValueError):
        return ""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    errors = [output for output in outputs if output.output_type == "error"]
    return f"{errors[-1].ename}: {errors[-1].evalue}".splitlines()[0] if errors else ""


def find_aligner(source: AlignerSource) -> Path:
    """The folder of the aligner that `source` names. Runs its experiment first if needed."""
    if source.folder:
        return aligner_folder(source)
    config, run = _aligner_run(source)
    if run_state(run.folder) != "done":
        print(
            f"no aligner yet: running {source.notebook.name} first, logs in {run}/logs", flush=True
        )
        cluster = config.launch.model_dump(include={"cluster", "slurm"})
        execute_notebook(source.notebook, run.folder, config, {"launch": cluster})
    return run.checkpoints / "best"


def has_aligner(source: AlignerSource) -> bool:
    """Whether `find_aligner` finds it without a run. One that is in training does not count."""
    return bool(source.folder) or run_state(_aligner_run(source)[1].folder) == "done"


def aligner_folder(source: AlignerSource) -> Path:
    """Like `find_aligner`, but runs nothing: the folder of an experiment may not exist."""
    if source.folder is None:
        return _aligner_run(source)[1].checkpoints / "best"
    if not (source.folder / "aligner.json").is_file():
        raise ConfigError(f"aligner.folder: no saved aligner in {source.folder}")
    return source.folder


def _aligner_run(source: AlignerSource) -> tuple[ExperimentConfig, Run]:
    config = load_config(source.config, source.overrides, "modalities")
    return config, Run.of(config, source.notebook.stem)
