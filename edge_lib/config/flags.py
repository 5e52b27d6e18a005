"""The fields of a section as flags of the command line, `max_side` as `--max-side`, and their
values.
"""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from edge_lib.config.base import did_you_mean
from edge_lib.config.errors import ConfigError

S = TypeVar("S", bound=BaseModel)


def flags_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The field of each flag."""
    return {f"--{key.replace('_', '-')}": info for key, info in section.model_fields.items()}


def add_flags(parser: ArgumentParser, section: type[BaseModel]) -> None:
    """A flag for each field. Values stay text, for pydantic to convert."""
    for flag, info in flags_of(section).items():
        kind = {"metavar": metavar(flag, info)}
        if info.annotation is bool:
            kind = {"action": "store_true"}
        elif list in map(get_origin, types_of(info.annotation)):
            kind["nargs"] = "+"
        parser.add_argument(flag, help=_help(info), required=info.is_required(), **kind)


def parse_section(name: str, section: type[S], options: dict[str, Any]) -> S:
    """A section of these values. ConfigError names the first wrong one. name: what it is for."""
    try:
        return section(**options)
    except ValidationError as error:
        problem = error.errors()[0]
        key, allowed = ".".join(map(str, problem["loc"])), section.model_fields
        if problem["type"] == "extra_forbidden":
            hint = did_you_mean(key, allowed)
            raise ConfigError(
                f"{name}: unknown option {key!r}; {hint}allowed: {', '.join(allowed)}"
            ) from None
        message = problem["msg"].removeprefix("Value error, ")
        given = problem["input"] is not None and problem["type"] != "missing"
        got = f" (got {problem['input']!r})" if given else ""
        raise ConfigError(f"{name}: {key}: {message}{got}") from None


def metavar(flag: str, info: FieldInfo) -> str:
    types = types_of(info.annotation)
    if choices := [choice for t in types if get_origin(t) is Literal for choice in get_args(t)]:
        return "|".join(choices)
    if Path in types:
        return "DIR" if flag == "--out" else "PATH"
    return "N" if {int, float} & {t for t in types if isinstance(t, type)} else "TEXT"


def types_of(annotation: Any) -> list[Any]:
    """An annotation and what it is made of: Path | None is made of Path and None."""
    return [annotation, *(part for inner in get_args(annotation) for part in types_of(inner))]


def _help(info: FieldInfo) -> str:
    has_default = not info.is_required() and info.default not in (None, False, "", [])
    default = f" (default {info.default})" if has_default else ""
    return f"{info.description or ''}{default}".replace("%", "%%")
