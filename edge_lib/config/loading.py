"""Read a config: YAML files that extend one another, overrides on top, clear errors.

A config file may start from another (`extends: base.yaml`, relative to itself), and overrides
change single keys (`overrides="train.lr=3e-4 vision.pooler=attention"`). OmegaConf reads, pydantic
validates. Every error is a `ConfigError` that names the file, the dotted key, the allowed values
and the nearest spelling.
"""

import difflib
from contextlib import suppress
from functools import reduce
from operator import attrgetter
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from edge_lib.config.aligner import AlignerSource
from edge_lib.config.base import from_root
from edge_lib.config.errors import ConfigError, Layer, explain
from edge_lib.config.experiment import ExperimentConfig
from edge_lib.config.features import FeaturesConfig
from edge_lib.config.modalities import MODALITIES
from edge_lib.config.overrides import Overrides, parse_overrides, reason
from edge_lib.config.unused import unused_sections


def load_config(path: str | Path, overrides: Overrides = "", *needed: str) -> ExperimentConfig:
    """Read `path` (relative to the repository root) and the files it extends, apply `overrides`
    (see `parse_overrides`) and validate. Raises ConfigError.

    needed: dotted keys that must be set, such as "qa" for a notebook that trains it; "modalities"
    stands for any of vision, audio and text.
    """
    values, layers = _read_values(path, overrides)
    try:
        config = ExperimentConfig.model_validate(values)
    except ValidationError as error:
        lines = [explain(problem, layers) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None
    if unused := [*unused_sections(config, layers)]:
        raise ConfigError("\n".join(unused))
    if config.aligner and config.aligner.config:
        _resolve_precision(config.aligner)
    if missing := [key for key in needed if not attrgetter(key)(config)]:
        names = ", ".join(missing).replace("modalities", " or ".join(MODALITIES))
        raise ConfigError(f"{path}: this needs {names}, which the config lacks")
    return config


def _read_values(path: str | Path, overrides: Overrides) -> tuple[dict, list[Layer]]:
    """The merged values of a file and overrides, not validated, and the layers they come from."""
    layers = _read_layers(from_root(path))
    layers += [("overrides", content) for content in parse_overrides(overrides)]
    merged = reduce(_merge, (content for _, content in layers))
    try:
        return OmegaConf.to_container(OmegaConf.create(merged), resolve=True), layers
    except OmegaConfBaseException as error:  # an unknown ${reference}
        raise ConfigError(f"{layers[-1][0]}: {error.full_key}: {reason(error)}") from None


def _resolve_precision(source: AlignerSource) -> None:
    """Override `features.precision: auto` of an aligner's config by its value here, so that all
    processes and machines that read the config around it name the same run.
    """
    with suppress(ConfigError, ValidationError):  # raised when that config is loaded
        features = _read_values(source.config, source.overrides)[0].get("features")
        if isinstance(features, dict) and features.get("precision") == "auto":
            precision = FeaturesConfig.model_validate(features).precision
            source.overrides = f"{source.overrides} features.precision={precision}".strip()


def _read_layers(path: Path, children: tuple[Path, ...] = ()) -> list[Layer]:
    """The file and those it extends, the base first."""
    if path in children:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(map(str, children))}")
    content = _read_file(path)
    parent = content.pop("extends", None)
    if not isinstance(parent, str | None):
        raise ConfigError(f"{path}: extends: expected the name of one file, got {parent!r}")
    base = _read_layers((path.parent / parent).resolve(), (*children, path)) if parent else []
    return [*base, (str(path), content)]


def _read_file(path: Path) -> dict:
    if not path.is_file():
        raise ConfigError(f"{path}: {_missing(path)}")
    try:
        content = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {reason(error)}") from None
    if not OmegaConf.is_dict(content):
        raise ConfigError(f"{path}: expected keys and values at the top level")
    return OmegaConf.to_container(content)


def _missing(path: Path) -> str:
    """Why `path` is no config file, and which ones exist."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f"no such folder {folder}"
    names = sorted(file.name for file in folder.glob("*.yaml"))
    available = f"available: {', '.join(names) or 'none'}"
    if path.is_dir():
        return f"is a folder, not a config file; {available}"
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f"no such config file; {f'did you mean {nearest[0]}?' if nearest else available}"


def _merge(base: dict, top: dict) -> dict:
    """Deep merge. Unlike OmegaConf's it lets a list replace a section, for pydantic to report."""
    shared = [key for key in base.keys() & top.keys() if isinstance(base[key], dict)]
    nested = {key: _merge(base[key], top[key]) for key in shared if isinstance(top[key], dict)}
    return {**base, **top, **nested}
