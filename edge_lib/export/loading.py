"""Loads whichever model a folder or a run holds."""

from pathlib import Path

import numpy as np
from torch import nn

from edge_lib.config import ConfigError, load_config
from edge_lib.config.registry import load_registered
from edge_lib.models.hub import find_model
from edge_lib.runs.files import absolute_path
from edge_lib.runs.saved_models import MODELS, saved_model
from edge_lib.sources import load_table


def load_model(folder: str | Path) -> nn.Module:
    """The model that `save_pretrained` wrote to a folder, or the best one of a run, of its last
    stage; one that ships or lies on the Hub, by name. ConfigError if there is none, or several.
    """
    path = saved_model(find_model(folder, *MODELS))
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
