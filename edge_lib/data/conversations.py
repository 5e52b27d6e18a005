"""The conversations that a table holds, and the images each is about."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_lib.data.messages import PLACEHOLDERS, ROLES

if TYPE_CHECKING:
    from edge_lib.data.table import Table


@dataclass
class Conversations:
    """The conversations of a table that can be learned from, in the order of its rows."""

    rows: np.ndarray  # (M,) the row of each
    messages: list[list[dict[str, str]]]  # {"role", "content"}, as transformers takes them
    pictures: list[list[int]]  # rows whose pictures its <image>s stand for, in order
    kinds: list[str]

    def with_items(self) -> "Conversations":
        """Those about an image or a clip."""
        marks = tuple(PLACEHOLDERS.values())
        kept = [
            number
            for number, messages in enumerate(self.messages)
            if any(mark in message["content"] for message in messages for mark in marks)
        ]
        columns = self.messages, self.pictures, self.kinds
        return Conversations(self.rows[kept], *([column[i] for i in kept] for column in columns))


def conversations_of(table: "Table") -> Conversations:
    """Those in the column `turns`; one that cannot be used is counted and skipped.

    A row whose turns are null is there for its picture or its clip alone.
    """
    found = Conversations(np.array([], np.int64), [], [], [])
    pictures, clips = _pictures(table), table.has("audio")
    columns, rows = (table.column("turns"), table.column("kind")), []
    for row, (turns, kind) in enumerate(zip(*columns, strict=True)):
        if turns is None:
            continue
        messages = [{**turn, "content": (turn["content"] or "").strip()} for turn in turns]
        if reason := _unusable(messages, len(pictures[row]), bool(clips[row])):
            table.skip(reason, row)
            continue
        rows.append(row)
        found.messages.append(messages)
        found.pictures.append(pictures[row])
        found.kinds.append(kind or "conversation")
    found.rows = np.array(rows, np.int64)
    return found


def _pictures(table: "Table") -> list[list[int]]:
    """For each row itself, if there is a picture to it, or a row for each picture that it names:
    itself where that is its own, else the one that holds it.
    """
    own, holders = table.column("image_id"), table.image_rows[table.pictures].tolist()
    holder = dict(zip(own, holders, strict=True))
    there = table.has("image")[holders]
    return [
        [row] * bool(there[row])
        if names is None
        else [row if name == own[row] else holder[name] for name in names if name in holder]
        for row, names in enumerate(table.column("image_ids"))
    ]


def _unusable(messages: list[dict[str, str]], images: int, clip: bool) -> str | None:
    """Why a conversation cannot be learned from; None if it can."""
    if all(message["role"] != "assistant" for message in messages):
        return "no conversation"
    if not all(message["role"] in ROLES and message["content"] for message in messages):
        return "a turn without role or text"
    heard = "\n".join(m["content"] for m in messages if m["role"] != "assistant")
    shown = heard.count(PLACEHOLDERS["image"])
    if shown != images:
        return "<image> without an image" if shown > images else "an image without <image>"
    return "<audio> without a clip" if heard.count(PLACEHOLDERS["audio"]) > clip else None


NO_IMAGE = ""  # image_id of every row without a picture: one item that cannot be encoded
