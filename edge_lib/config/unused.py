"""Sections of sources that nothing reads, because another source is chosen."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edge_lib.config.errors import Layer
from edge_lib.config.registry import CONVERSATION_SOURCES, QUESTION_SOURCES, SOURCES

REGISTRIES = {
    ("data",): SOURCES,
    ("data", "questions"): QUESTION_SOURCES,
    ("data", "conversations"): CONVERSATION_SOURCES,
}


def unused_sections(config: object, layers: Sequence[Layer]) -> Iterator[str]:
    """A message for each section of a source that a file sets above the one which chose another.

    A file may choose another source than those it extends, whose sections then stay unused. All
    overrides are one layer. layers: from base to overrides.
    """
    files = list(dict.fromkeys(name for name, _ in layers))
    for path, registry in REGISTRIES.items():
        chosen, last = getattr(_value(config, path), "source", None), {}
        for name, content in layers:
            section = _value(content, path)
            items = section.items() if isinstance(section, Mapping) else ()
            last |= {key: files.index(name) for key, value in items if value is not None}
        for key in registry.keys() & last.keys() - {chosen, "instructions"}:
            if last[key] > last.get("source", -1):
                where = ".".join(path)
                yield f"{files[last[key]]}: {where}.{key} is set, but {where}.source is {chosen!r}"


def _value(values: Any, path: tuple[str, ...]) -> Any:
    """The content of a section; None if it is missing."""
    for name in path:
        values = values.get(name) if isinstance(values, Mapping) else getattr(values, name, None)
    return values
