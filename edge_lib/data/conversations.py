"""The conversations that a table holds, and the images that each is about."""

from dataclasses import dataclass

import numpy as np

from edge_lib.data.messages import PLACEHOLDERS, ROLES
from edge_lib.data.table import Table

NO_IMAGE = ""  # image_id of every row without an image: one item, which cannot be encoded


@dataclass
class Conversations:
    """The usable conversations of a table, in the order of its rows."""

    rows: np.ndarray  # (M,) the row of each
    messages: list[list[dict[str, str]]]  # {"role", "content"}, as transformers takes them
    image_rows: list[list[int]]  # for each <image>, in order, a row with its image
    kinds: list[str]

    def with_items(self) -> "Conversations":
        """Those with at least one image or clip."""
        marks = tuple(PLACEHOLDERS.values())
        kept = [
            number
            for number, messages in enumerate(self.messages)
            if any(mark in message["content"] for message in messages for mark in marks)
        ]
        columns = self.messages, self.image_rows, self.kinds
        return Conversations(self.rows[kept], *([column[i] for i in kept] for column in columns))


def read_conversations(table: Table) -> Conversations:
    """The conversations in the column `turns`; one that cannot be used is counted and skipped.

    A row without turns only holds an image or a clip for others.
    """
    rows, kept = [], Conversations(np.array([], np.int64), [], [], [])
    image_rows, clips = _image_rows(table), table.has("audio")
    columns = table.column("turns"), table.column("kind")
    for row, (turns, kind) in enumerate(zip(*columns, strict=True)):
        if turns is None:
            continue
        messages = [{**turn, "content": (turn["content"] or "").strip()} for turn in turns]
        if problem := _problem(messages, len(image_rows[row]), bool(clips[row])):
            table.skip(problem, row)
            continue
        rows.append(row)
        kept.messages.append(messages)
        kept.image_rows.append(image_rows[row])
        kept.kinds.append(kind or "conversation")
    kept.rows = np.array(rows, np.int64)
    return kept


def _image_rows(table: Table) -> list[list[int]]:
    """For each row, the rows that hold its images: itself, or those that it names."""
    own, holders = table.column("image_id"), table.image_rows[table.image_index].tolist()
    holder = dict(zip(own, holders, strict=True))
    has_image = table.has("image")[holders]
    return [
        [row] * bool(has_image[row])
        if names is None
        else [row if name == own[row] else holder[name] for name in names if name in holder]
        for row, names in enumerate(table.column("image_ids"))
    ]


def _problem(messages: list[dict[str, str]], images: int, has_clip: bool) -> str | None:
    """Why a conversation cannot be used; None if it can."""
    if all(message["role"] != "assistant" for message in messages):
        return "no assistant turn"
    if not all(message["role"] in ROLES and message["content"] for message in messages):
        return "a turn without role or text"
    inputs = "\n".join(m["content"] for m in messages if m["role"] != "assistant")
    placeholders = inputs.count(PLACEHOLDERS["image"])
    if placeholders != images:
        return "<image> without an image" if placeholders > images else "an image without <image>"
    return "<audio> without a clip" if inputs.count(PLACEHOLDERS["audio"]) > has_clip else None
