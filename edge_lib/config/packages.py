"""Packages of an extra, which a plain installation lacks."""

from collections.abc import Sequence
from importlib.util import find_spec

from edge_lib.config.errors import ConfigError


def need_packages(purpose: str, extra: str, names: Sequence[str]) -> None:
    """ConfigError that tells what to install."""
    if missing := [name for name in names if not find_spec(name)]:
        raise ConfigError(f"{purpose} needs {', '.join(missing)}; install edge-glass[{extra}]")
