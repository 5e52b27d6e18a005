"""Which model a folder holds: its own, or the best one of a run."""

from pathlib import Path

from edge_lib.config import ConfigError
from edge_lib.config.vlm import STAGES

MODELS = {
    "aligner.json": "edge_lib.models:Aligner",
    "qa.json": "edge_lib.models:QAModel",
    "vlm.json": "edge_lib.models.vlm:VLM",
}


def saved_model(folder: Path) -> Path:
    """The metadata of the model in a folder, or of the best one of a run, of its last stage, by
    one of the names in `MODELS`. ConfigError if there is none, or several.
    """
    if own := [folder / name for name in MODELS if (folder / name).is_file()]:
        return own[0]
    paths = [path for name in MODELS for path in folder.glob(f"**/checkpoints/best/{name}")]
    stages = {path.relative_to(folder).parts[0]: path for path in paths}
    if trained := [stages[name] for name in STAGES if name in stages]:
        return trained[-1]
    if len(paths) != 1:
        several = ", ".join(str(path.parent) for path in sorted(paths))
        hint = f"several saved models, choose one: {several}" if paths else "no saved model"
        raise ConfigError(f"{folder}: {hint}")
    return paths[0]
