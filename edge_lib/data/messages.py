"""Roles and placeholders of chat messages."""

from collections.abc import Sequence

from edge_lib.config import MODALITIES

Messages = Sequence[dict[str, str]]  # {"role", "content"}, as transformers takes them

PLACEHOLDERS = {m.column: m.placeholder for m in MODALITIES.values() if m.placeholder}
ROLES = ("system", "user", "assistant")
ESCAPE = "\ufdd1"  # Unicode reserves it for such a use


class ChatError(ValueError):
    """A conversation that cannot be turned into an input of the model."""


class TooLong(ChatError):
    """A conversation of more tokens than the model takes."""


def as_literal(text: str) -> str:
    """A text in which placeholders that somebody typed are text and stand for no items."""
    for mark in PLACEHOLDERS.values():
        text = text.replace(mark, mark[0] + ESCAPE + mark[1:])
    return text
