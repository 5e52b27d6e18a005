"""Loads whichever model a folder or a run holds."""

from pathlib import Path

import numpy as np
from torch import nn

from edge_lib.config import ConfigError, load_config
from edge_lib.config.registry import load_registered
from edge_lib.config.vlm import STAGES
from edge_lib.models.hub import find_model
from edge_lib.runs.files import absolute_path
from edge_lib.sources import load_table

MODELS = {
    "aligner.json": "edge_lib.models:Aligner",
    "qa.json": "edge_lib.models:QAModel",
    "vlm.json": "edge_lib.models.vlm:VLM",
}


def load_model(folder: str | Path) -> nn.Module:
    """The model that `save_pretrained` wrote to a folder, or the best one of a run, of its last
    stage; one that ships or lies on the Hub, by name. ConfigError if there is none, or several.
    """
    path = _saved_model(find_model(folder, *MODELS))
    return load_registered(MODELS[path.name]).from_pretrained(path.parent)


def aligner_of(model: nn.Module) -> nn.Module:
    """The aligner that a model is, or is built on."""
    model = getattr(model, "prefix_sources", model)
    return getattr(model, "aligner", model)


def run_captions(folder: str | Path, count: int = 128) -> list[str]:
    """Captions that a run was validated on; none if the folder is no run, or its data are gone."""
    path = absolute_path(folder) / "config.yaml"
    if not path.is_file():
        return []
    try:
        captions = load_table(load_config(str(path)).data, "val").captions
    except (ConfigError, OSError) as error:
        print(f"{folder}: no captions to calibrate on: {error}")
        return []
    return captions.take(np.arange(min(count, len(captions))))


def _saved_model(folder: Path) -> Path:
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
