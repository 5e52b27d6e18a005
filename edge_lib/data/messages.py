"""Roles and placeholders of chat messages."""

PLACEHOLDERS = {"image": "<image>", "audio": "<audio>"}


ROLES = ("system", "user", "assistant")
