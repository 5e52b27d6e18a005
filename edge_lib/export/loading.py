"""Loads whichever model a folder or a run holds."""

from pathlib import Path

import numpy as np
from torch import nn

from edge_lib.config import ConfigError, load_config
from edge_lib.config.registry import load_registered
from edge_lib.models import Aligner
from edge_lib.runs.files import absolute_path
from edge_lib.sources import load_table

MODELS = {
    "aligner.json": "edge_lib.models:Aligner",
    "qa.json": "edge_lib.models:QAModel",
    "vlm.json": "edge_lib.models.vlm:VLM",
}


def load_model(folder: str | Path) -> nn.Module:
    """The model that `save_pretrained` wrote to a folder, or the best one of a run; an aligner that
    ships or lies on the Hub, by name. ConfigError if there is none, or several.
    """
    if not absolute_path(folder).exists():
        try:
            return Aligner.from_pretrained(folder)
        except FileNotFoundError as error:
            raise ConfigError(str(error)) from None
    path = _saved_model(absolute_path(folder))
    return load_registered(MODELS[path.name]).from_pretrained(path.parent)


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
    if len(paths) != 1:
        several = ", ".join(str(path.parent) for path in sorted(paths))
        hint = f"several saved models, choose one: {several}" if paths else "no saved model"
        raise ConfigError(f"{folder}: {hint}")
    return paths[0]
