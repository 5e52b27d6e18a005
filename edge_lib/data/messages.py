"""Roles and placeholders of chat messages."""

from collections.abc import Sequence

from edge_lib.config import MODALITIES

Messages = Sequence[dict[str, str]]  # {"role", "content"}, as transformers takes them

PLACEHOLDERS = {m.column: m.placeholder for m in MODALITIES.values() if m.placeholder}
ROLES = ("system", "user", "assistant")


class ChatError(ValueError):
    """A conversation that cannot be turned into an input of the model."""
