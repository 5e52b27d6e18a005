"""The summary of a download, for people."""

from collections.abc import Iterator
from typing import Any

NESTED = dict, list


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """A line a key, such as "rows: train 627, val 79". Nothing for what is empty, and for the
    options, which the user has given.
    """
    shown = {key: v for key, v in summary.items() if key not in ("settings", "complete")}
    return [line for key, value in shown.items() for line in _lines(key, value)]


def _lines(name: str, value: Any) -> Iterator[str]:
    """Of a value; nested ones have lines of their own."""
    values = value if isinstance(value, list) else [value]
    pairs = [*value.items()] if isinstance(value, dict) else [("", v) for v in values]
    flat = [f"{key} {_text(v)}".strip() for key, v in pairs if not isinstance(v, NESTED)]
    if value is not None and flat:
        yield f"{name}: {', '.join(flat)}"
    for key, inner in pairs:
        if isinstance(inner, NESTED):
            yield from _lines(f"{name}, {key}" if key else name, inner)


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
