"""The conversations that a table holds, and the images that each is about.

Columns are read as Arrow arrays: a million conversations are checked in seconds, and Python objects
are made only for those that are asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edge_lib.data.messages import PLACEHOLDERS, ROLES
from edge_lib.data.skipped import Skipped
from edge_lib.data.table import SCHEMA, Table

NO_IMAGE = ""  # image_id of every row without an image: one item, which cannot be encoded
PART = 2048  # conversations that are processed at once
TURNS = SCHEMA.field("turns").type
NOT_UTF8 = "a text that is not UTF-8"
PROBLEMS = (
    "no assistant turn",
    "a turn without role or text",
    "<image> without an image",
    "an image without <image>",
    "<audio> without a clip",
    NOT_UTF8,
)


@dataclass
class Conversations:
    """M usable conversations, in the order of a table's rows."""

    rows: np.ndarray  # (M,) the row of each, ascending
    turns: pa.ChunkedArray | pa.Array  # of all rows of the table
    kind_column: pa.ChunkedArray | pa.Array  # of all rows of the table
    images: pa.ListArray  # (M,) for each <image>, in order, a row with its image
    clips: np.ndarray  # (M,) the number of <audio>
    skipped: dict[int, Skipped] = field(default_factory=dict)  # the rows that cannot be used

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def from_lists(
        cls, messages: list[list[dict]], image_rows: list[list[int]], kinds: list[str]
    ) -> "Conversations":
        """Conversations of the rows 0 to M - 1, without clips."""
        turns, images = pa.array(messages, TURNS), pa.array(image_rows, pa.list_(pa.int64()))
        clips = np.zeros(len(turns), np.int64)
        return cls(np.arange(len(turns)), turns, pa.array(kinds, pa.string()), images, clips)

    def select(self, numbers: np.ndarray | slice) -> "Conversations":
        """Some of the conversations; numbers are ascending."""
        numbers = np.arange(len(self))[numbers]
        images = self.images.take(pa.array(numbers))
        rows, clips = self.rows[numbers], self.clips[numbers]
        return Conversations(rows, self.turns, self.kind_column, images, clips)

    def parts(self) -> Iterator["Conversations"]:
        """All conversations, PART at a time."""
        for start in range(0, len(self), PART):
            yield self.select(slice(start, start + PART))

    @cached_property
    def messages(self) -> list[list[dict[str, str]]]:
        """{"role", "content"}, as transformers takes them."""
        messages = []
        for part in _parts(self.turns, self.rows):
            ends = pc.list_value_length(part).to_numpy().cumsum().tolist()
            roles, texts = (column.to_pylist() for column in _columns(part))
            turns = [
                {"role": role, "content": (text or "").strip()}
                for role, text in zip(roles, texts, strict=True)
            ]
            messages += [turns[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        return messages

    @cached_property
    def image_rows(self) -> list[list[int]]:
        return self.images.to_pylist()

    @cached_property
    def kinds(self) -> list[str]:
        kinds = (part.to_pylist() for part in _parts(self.kind_column, self.rows))
        return [kind or "conversation" for part in kinds for kind in part]


def read_conversations(table: Table) -> Conversations:
    """The conversations in the column `turns`; one that cannot be used is counted and skipped.

    A row without turns only holds an image or a clip for others.
    """
    turns, images = arrow_column(table, "turns"), _image_rows(table)
    problems = _problems(turns, pc.list_value_length(images).to_numpy(), table.has("audio"))
    skipped = {int(row): Skipped(PROBLEMS[problems[row]]) for row in np.flatnonzero(problems >= 0)}
    table.skip_all(skipped)
    rows = np.flatnonzero((problems < 0) & turns.is_valid().to_numpy())
    clips = np.concatenate([_count(part, "audio") for part in _parts(turns, rows)] or [rows])
    kinds, images = arrow_column(table, "kind"), images.take(pa.array(rows))
    return Conversations(rows, turns, kinds, images, clips, skipped)


def arrow_column(table: Table, name: str) -> pa.ChunkedArray:
    """A whole column; nulls of the right type where the source has none."""
    column = table.arrow(name)
    return column.cast(SCHEMA.field(name).type) if pa.types.is_null(column.type) else column


def _parts(column: pa.ChunkedArray | pa.Array, rows: np.ndarray) -> Iterator[pa.Array]:
    """The cells of ascending rows, PART rows at a time."""
    for start in range(0, len(rows), PART):
        part = rows[start : start + PART]
        cells = column.slice(part[0], part[-1] + 1 - part[0])
        cells = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
        yield cells.take(pa.array(part - part[0]))


def _columns(turns: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Roles and texts of all turns of some conversations."""
    values = pc.list_flatten(turns)
    roles, texts = (pc.struct_field(values, name) for name in ("role", "content"))
    return roles.cast(pa.string()), texts.cast(pa.string())  # the type of nulls is null


def _per_row(turns: pa.Array, values: pa.Array) -> np.ndarray:
    """(N,) the sum over a conversation's turns of a number or truth, in which nulls count 0."""
    owners = pc.list_parent_indices(turns).to_numpy()
    weights = pc.fill_null(pc.cast(values, pa.int64()), 0).to_numpy()
    return np.bincount(owners, weights, len(turns)).astype(np.int64)


def _count(turns: pa.Array, name: str) -> np.ndarray:
    """(N,) the number of placeholders outside of the assistant's turns."""
    roles, texts = _columns(turns)
    counts = pc.count_substring(texts, PLACEHOLDERS[name])
    return _per_row(turns, pc.if_else(pc.equal(roles, "assistant"), 0, counts))


def _problems(turns: pa.ChunkedArray, images: np.ndarray, has_clip: np.ndarray) -> np.ndarray:
    """(N,) the number in PROBLEMS of what makes a row's conversation unusable; -1 if nothing."""
    problems, rows = np.full(len(turns), -1), np.flatnonzero(turns.is_valid().to_numpy())
    for number, part in enumerate(_parts(turns, rows)):
        own = rows[number * PART :][:PART]
        problems[own] = _safe_problems(part, images[own], has_clip[own])
    return problems


def _safe_problems(turns: pa.Array, images: np.ndarray, has_clip: np.ndarray) -> np.ndarray:
    """`_part_problems`, row by row if a text is not UTF-8: Arrow names no row."""
    try:
        return _part_problems(turns, images, has_clip)
    except pa.ArrowInvalid:
        if len(turns) == 1:
            return np.array([PROBLEMS.index(NOT_UTF8)])
    rows = (slice(row, row + 1) for row in range(len(turns)))
    return np.concatenate([_safe_problems(turns[r], images[r], has_clip[r]) for r in rows])


def _part_problems(turns: pa.Array, images: np.ndarray, has_clip: np.ndarray) -> np.ndarray:
    roles, texts = _columns(turns)
    known = pc.is_in(roles, pa.array(ROLES))
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
    # an empty system prompt is none
    blank = pc.and_(blank, pc.not_equal(pc.fill_null(roles, ""), "system"))
    placeholders = _count(turns, "image")
    checks = [
        _per_row(turns, pc.equal(roles, "assistant")) == 0,
        _per_row(turns, pc.or_(pc.invert(known), blank)) > 0,
        placeholders > images,
        placeholders < images,
        _count(turns, "audio") > has_clip,
    ]
    return np.select(checks, range(len(checks)), -1)


def _image_rows(table: Table) -> pa.ListArray:
    """(N,) for each row, the rows that hold its images: itself, or those that it names."""
    rows, holders = np.arange(len(table)), table.image_rows[table.image_index]
    # names may be numbers
    names, own = (table.arrow(n).cast(SCHEMA.field(n).type) for n in ("image_ids", "image_id"))
    alone = rows[names.is_null().to_numpy() & table.has("image")[holders]]
    owners, values = _named_rows(table, names, own)
    owners, values = np.concatenate([alone, owners]), np.concatenate([alone, values])
    order = np.argsort(owners, kind="stable")
    offsets = np.searchsorted(owners[order], np.arange(len(table) + 1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values[order]))


def _named_rows(table: Table, names, own) -> tuple[np.ndarray, np.ndarray]:
    """For each image that a row names: the row, and the row that holds the image."""
    owners, names = pc.list_parent_indices(names), pc.list_flatten(names)
    holders = own.take(pa.array(table.image_rows)).combine_chunks()
    images = pc.index_in(names, holders, skip_nulls=True)
    owners, names = (column.filter(images.is_valid()) for column in (owners, names))
    rows = table.image_rows[images.drop_null().to_numpy()]
    is_own = pc.fill_null(pc.equal(names, own.take(owners)), False).to_numpy()
    owners = owners.to_numpy()
    return owners, np.where(is_own, owners, rows)
