"""Read a config: files that extend one another, overrides on top, and errors that help.

A config file may start from another (`extends: base.yaml`, relative to itself) and the command
line may change single keys (`overrides="train.lr=3e-4 vision.pooler=attention"`). OmegaConf reads
and merges; pydantic checks. Anything wrong raises one `ConfigError` that names the file, the dotted
key, what is allowed and the nearest spelling.
"""

import difflib
import shlex
from functools import reduce
from pathlib import Path
from typing import get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from edge_lib.config.base import Section, from_root
from edge_lib.config.experiment import ExperimentConfig


class ConfigError(ValueError):
    """A config that cannot be used; the message says where and what is allowed."""


def load_config(path: str | Path, overrides: str = "") -> ExperimentConfig:
    """Read `path`, what it extends, and dotlist `overrides` on top. Raises ConfigError."""
    layers = _read_layers(from_root(path))
    if overrides:
        layers.append(("overrides", _parse_overrides(overrides)))
    merged = reduce(_merge, (OmegaConf.to_container(layer) for _, layer in layers))
    try:
        values = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    except OmegaConfBaseException as error:  # a ${reference} that leads nowhere
        raise ConfigError(f"{layers[-1][0]}: {error.full_key}: {error.msg}") from None
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem, layers) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _read_layers(path: Path, seen: tuple[Path, ...] = ()) -> list:
    """[(file name, its content)], the most basic file first."""
    if path in seen:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(map(str, seen))}")
    if not path.is_file():
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: no such folder {path.parent}")
        siblings = sorted(p.name for p in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; beside it: {siblings or 'nothing'}"
        raise ConfigError(f"{path}: no such config file{hint}")
    try:
        content = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not OmegaConf.is_dict(content):
        raise ConfigError(f"{path}: expected keys and values at the top level")
    parent = content.pop("extends", None)
    if not isinstance(parent, str | None):
        raise ConfigError(f"{path}: extends: expected the name of one file, got {parent!r}")
    below = _read_layers((path.parent / parent).resolve(), (*seen, path)) if parent else []
    return [*below, (str(path), content)]


def _merge(below: dict, above: dict) -> dict:
    """Deep merge. Unlike OmegaConf's it lets a list replace a section, for pydantic to name it."""
    both = {k for k in below.keys() & above.keys() if isinstance(below[k], dict)}
    nested = {k: _merge(below[k], above[k]) for k in both if isinstance(above[k], dict)}
    return {**below, **above, **nested}


def _parse_overrides(overrides: str):
    try:
        words = shlex.split(overrides)
        for word in words:
            if "=" not in word:
                raise ValueError(f"{word!r} is not of the form dotted.key=value")
        return OmegaConf.from_dotlist(words)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"overrides: {error}") from None


def _explain(problem: dict, layers: list) -> str:
    """One line for one pydantic error: origin, dotted key, what is wrong, the nearest spelling."""
    *parents, last = problem["loc"] or ("",)
    key = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
    files = [layer for layer in layers if layer[0] != "overrides"]
    holders = (name for name, layer in reversed(layers) if _has(layer, problem["loc"]))
    origin = next(holders, files[-1][0])
    if problem["type"] != "extra_forbidden":
        # a section's own check says what it minds; its whole content would drown that
        given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
        return f"{origin}: {key}: {problem['msg']}{given}"
    allowed = sorted(_section(parents).model_fields)
    near = difflib.get_close_matches(str(last), allowed, n=1)
    hint = f"did you mean {'.'.join([*map(str, parents), near[0]])!r}? " if near else ""
    return f"{origin}: {key}: unknown key; {hint}allowed here: {', '.join(allowed)}"


def _has(layer, loc: tuple) -> bool:
    for part in loc:
        if not OmegaConf.is_dict(layer) or part not in layer:
            return OmegaConf.is_list(layer)
        layer = layer[part]
    return True


def _section(path: list) -> type[Section]:
    """The section class that the dotted `path` leads to."""
    section, parts = ExperimentConfig, iter(path)
    for part in parts:
        kind = section.model_fields[part].annotation
        choices = (kind, *get_args(kind))
        section = next(c for c in choices if isinstance(c, type) and issubclass(c, Section))
        if get_origin(kind) is dict:
            next(parts)  # the name of one of several
    return section
