"""An item that cannot be used."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """Why an item is left out. reason: one of a few, by which items are counted."""

    reason: str
    error: str = ""
