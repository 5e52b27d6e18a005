"""Turn pydantic's validation errors into one line each: origin, dotted key, cause, suggestion."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from edge_lib.config.base import Section
from edge_lib.config.experiment import ExperimentConfig

# names that other libraries give to our keys
SYNONYMS = {
    "learning_rate": "lr",
    "batch": "batch_size",
    "steps": "max_steps",
    "num_epochs": "epochs",
    "grad_clip": "clip",
    "gradient_accumulation_steps": "accumulation",
    "random_seed": "seed",
}
Layer = tuple[str, dict]  # a file's path or "overrides", and its content


class ConfigError(ValueError):
    """An invalid config or parameter; the message names its origin and the allowed values."""


def explain(problem: dict[str, Any], layers: Sequence[Layer]) -> str:
    """One line for one item of `ValidationError.errors()`. `layers` go from base to overrides."""
    path = tuple(part for part in problem["loc"] if part != "[key]")  # pydantic's, of a dict's key
    location = ": ".join(filter(None, [_origin(path, layers), _dotted(path)]))
    if problem["type"] == "extra_forbidden":
        return f"{location}: unknown key; {_suggest(path)}"
    if problem["type"] == "model_type":
        return f"{location}: expected the keys of a section (got {problem['input']!r})"
    if problem["type"] == "too_short":
        least = problem["ctx"]["min_length"]
        return f"{location}: needs at least {least} (got {problem['input']!r})"
    # the error of a whole section names its key; the section's content would hide it
    value = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    return f"{location}: {problem['msg'].removeprefix('Value error, ')}{value}"


def _origin(path: tuple, layers: Sequence[Layer]) -> str:
    """The last layer that sets `path`; the last file if none does (a missing key)."""
    names = [name for name, content in layers if _has(content, path)]
    return (names or [name for name, _ in layers if name != "overrides"])[-1]


def _has(content: Any, path: tuple) -> bool:
    for part in path:
        if not isinstance(content, dict) or part not in content:
            return isinstance(content, list)
        content = content[part]
    return True


def _suggest(path: tuple) -> str:
    """The nearest known key, and the keys allowed in the section of `path`."""
    *parents, name = path
    allowed = sorted(_section(parents).model_fields)
    name = SYNONYMS.get(name, name)
    siblings = [(*parents, key) for key in difflib.get_close_matches(name, allowed, n=1)]
    elsewhere = [key for key in _all_keys() if key[-1] == name]
    elsewhere.sort(key=lambda key: (key[0] != "train", len(key)))
    nearest = [*siblings, *elsewhere][:1]
    hint = "".join(f"did you mean {_dotted(key)!r}? " for key in nearest)
    return f"{hint}allowed here: {', '.join(allowed)}"


def _all_keys(
    section: type[Section] = ExperimentConfig, parents: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """The path of every key, without those in dicts of sections."""
    for name, field in section.model_fields.items():
        yield (*parents, name)
        child = _child(field.annotation)
        if child and get_origin(field.annotation) is not dict:
            yield from _all_keys(child, (*parents, name))


def _section(path: list) -> type[Section]:
    """The section class at `path`."""
    section, parts = ExperimentConfig, iter(path)
    for part in parts:
        annotation = section.model_fields[part].annotation
        section = _child(annotation)
        if get_origin(annotation) is dict:
            next(parts)  # the section's name in the dict
    return section


def _child(annotation: Any) -> type[Section] | None:
    """The section class in a field's annotation, such as `X | None` or `dict[str, X]`."""
    types = (t for t in (annotation, *get_args(annotation)) if isinstance(t, type))
    return next((t for t in types if issubclass(t, Section)), None)


def _dotted(path: Sequence) -> str:
    return ".".join(map(str, path))
