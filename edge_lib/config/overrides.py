"""Overrides: values set on top of a config file, given as text, a dict or a list."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edge_lib.config.errors import ConfigError

Overrides = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


def parse_overrides(overrides: Overrides) -> list[dict]:
    """Nested values, one dict per override. Raises ConfigError, which quotes the invalid one.

    Text follows shell rules: "train.lr=3e-4 'data.cache_dir=my cache' loss.dims=[8, 4]"; a space
    inside brackets needs no quotes. A list holds "key=value" strings or dicts; keys of dicts may
    be dotted.
    """
    if isinstance(overrides, str):
        return [_parse_assignment(word) for word in _split(overrides)]
    if isinstance(overrides, Mapping):
        return [_parse_item(key, value) for key, value in overrides.items()]
    if isinstance(overrides, Sequence):
        return [part for element in overrides for part in _parse_element(element)]
    raise ConfigError(f"overrides: expected text, a dict or a list, got {overrides!r}")


def reason(error: Exception) -> str:
    """The message of a parser's error, on one line."""
    return getattr(error, "problem", None) or str(error).splitlines()[0]


def _split(text: str) -> list[str]:
    """Shell words, except that a list or dict continues up to its closing bracket."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"overrides: {error}: {text}") from None
    joined = []
    for word in words:
        if joined and _is_open(joined[-1]):
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def _is_open(word: str) -> bool:
    value = word.partition("=")[2]
    opened, closed = (sum(map(value.count, brackets)) for brackets in ("[{", "]}"))
    return value.startswith(("[", "{")) and opened > closed


def _parse_element(element: Any) -> list[dict]:
    if isinstance(element, Mapping):
        return parse_overrides(element)
    return [_parse_assignment(element)]


def _parse_assignment(assignment: Any) -> dict:
    if not isinstance(assignment, str) or not assignment.partition("=")[1]:
        raise ConfigError(f"overrides: {assignment!r} is not of the form dotted.key=value")
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([assignment]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"overrides: {assignment!r} is not valid: {reason(error)}") from None


def _parse_item(key: str, value: Any) -> dict:
    nested = OmegaConf.create()
    try:
        OmegaConf.update(nested, str(key), value)
    except OmegaConfBaseException as error:
        raise ConfigError(f"overrides: {key!r}: {reason(error)}") from None
    return OmegaConf.to_container(nested)
