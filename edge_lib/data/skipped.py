"""Rows and items that cannot be used."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """Why an item is left out. reason: one of a few, by which items are counted."""

    reason: str
    error: str = ""


def skip_line(reason: str, ids: Sequence[str], error: object = "") -> str:
    """A line on all that is left out for a reason: "no caption: 4 skipped (r1, r2, r3, ...)"."""
    first = ", ".join([*ids[:3], "..."] if len(ids) > 3 else ids)
    cause = f": {str(error)[:200]}" if error else ""
    return f"{reason}: {len(ids):,} skipped ({first}){cause}"
