"""The table format that all sources share, read lazily.

Columns: `id`, `image` (encoded bytes), `texts` (captions), `audio` (encoded bytes), `question`,
`answers`, `kind` (of the question), `group` (rows that are edits of one another), `image_id` (rows
with the same one share an image), `turns` (a conversation) and `image_ids` (of the images that it
is about, unless it is about the row's own). Any of them may be null: a null is a missing modality.
Values stay in Arrow's memory map, and bytes encoded, until an item is read. An item that does not
decode, or a row without a caption, is skipped and counted in `Table.skipped`. Rows are told apart
by their numbers: ids may repeat or be null.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, disable_progress_bars
from PIL import Image

from edge_lib.config import MODALITIES
from edge_lib.config.registry import load_registered
from edge_lib.data.cells import cell_paths, is_filled, read_cell
from edge_lib.data.columns import check_columns, is_text
from edge_lib.data.lazy_sequence import LazySequence
from edge_lib.data.questions import Questions, read_questions
from edge_lib.data.row_keys import file_keys, is_blank, number_images, row_keys
from edge_lib.data.skipped import Skipped, skip_line
from edge_lib.data.stored import select_rows, stored_column, stored_rows, take_rows, valid_texts
from edge_lib.data.texts import Texts, read_texts, refuse_json

log = logging.getLogger(__name__)
disable_progress_bars()

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("texts", pa.list_(pa.string())),
        ("audio", pa.binary()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("kind", pa.string()),
        ("group", pa.int64()),
        ("image_id", pa.string()),
        ("turns", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("image_ids", pa.list_(pa.string())),
    ]
)


class Table:
    """Rows of one split. `rows` arguments are sequences of row numbers."""

    def __init__(self, dataset: Dataset, name: str, fingerprint: str):
        """fingerprint: names the content; stored features belong to it.

        Raises ConfigError for a column of a wrong type, or JSON in place of texts.
        """
        names = [column for column in dataset.column_names if column in SCHEMA.names]
        check_columns(dataset.features, dict(zip(names, names, strict=True)), name)
        self.dataset, self.name, self.fingerprint = dataset, name, fingerprint
        self._stored_rows = stored_rows(dataset)
        self._columns: dict[str, pa.ChunkedArray] = {}  # those that were read
        self.skipped: dict[str, list[str]] = defaultdict(list)  # reason -> id of each row
        self._skipped_rows: dict[str, set[int]] = defaultdict(set)
        for column in ("texts", "question", "answers"):
            refuse_json(stored_column(dataset, column), f"{name}: column {column!r}")

    def __len__(self) -> int:
        return len(self.dataset)

    def select(self, rows: Sequence[int], name: str, fingerprint: str) -> "Table":
        """A table of some rows, in this order."""
        return Table(select_rows(self.dataset, rows, fingerprint), name, fingerprint)

    @cached_property
    def ids(self) -> "RowIds":
        """The id of each row, or its number where the source has none."""
        return RowIds(self)

    @cached_property
    def groups(self) -> np.ndarray:
        """(N,) a number that rows share if they are edits of one another or have the same image."""
        numbers, known = map(self._select, row_keys(self._arrow("group")))
        lowest = min(0, numbers[known].min(initial=0))
        return np.where(known, numbers, lowest - 1 - self.image_index)

    @cached_property
    def captions(self) -> Texts:
        """Every caption that is not empty, stripped; those of one row stand together."""
        captions = self.texts("texts")
        self.skip_rows("no caption", captions.missing_rows(len(self)))
        return captions

    @property
    def caption_rows(self) -> np.ndarray:
        """(len(captions),) the row of each caption, ascending."""
        return self.captions.rows

    @cached_property
    def questions(self) -> Questions:
        """Every question that is not empty and has an answer; others are counted and skipped."""
        return read_questions(self)

    @property
    def image_rows(self) -> np.ndarray:
        """(P,) the row that holds each distinct image, ascending."""
        return self._images[0]

    @property
    def image_index(self) -> np.ndarray:
        """(N,) the number of each row's image."""
        return self._images[1]

    @cached_property
    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        names, has_image = self._arrow("image_id"), self.has("image")
        keys, known = map(self._select, row_keys(names))
        if not known.any():
            return (np.arange(len(self)),) * 2
        blank = self._select(is_blank(names))  # a name for no image: not shared by rows with one
        files = self._select(file_keys(self._arrow("image")))
        return number_images(keys, known & ~(blank & has_image), files, has_image)

    def images(self, rows) -> list[Image.Image | None]:
        """RGB images; None where a row has none or one that does not decode."""
        return self.decode("vision", rows)

    def clips(self, rows) -> list[np.ndarray | None]:
        """Mono clips (n,) at 16 kHz; None where a row has none or one that does not decode."""
        return self.decode("audio", rows)

    def decode(self, modality: str, rows) -> list:
        """Decoded items; None where a row has none or one that does not decode."""
        items = self.try_decode(modality, rows)
        pairs = zip(map(int, rows), items, strict=True)
        self.skip_all({row: item for row, item in pairs if isinstance(item, Skipped)})
        return [None if isinstance(item, Skipped) else item for item in items]

    def try_decode(self, modality: str, rows) -> list:
        """Like `decode`, with the reason (a `Skipped`) in place of None, and nothing is counted."""
        column = MODALITIES[modality].column
        decoder = load_registered(MODALITIES[modality].decode)
        values = self.cells(column, rows)
        return [_decode_cell(column, value, decoder) for value in values]

    def items(self, modality: str) -> Sequence:
        """What an encoder encodes: every distinct image, row with sound, or caption."""
        if modality == "text":
            return self.captions
        return range(len(self.image_rows if modality == "vision" else self))

    def row_items(self, modality: str, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M,) the valid `items` of all rows, and (M,) the row of each, ascending. An image that
        rows share is an item of each. valid: (at least as many as items,) bool.
        """
        rows = np.arange(len(self)) if modality == "vision" else self.item_rows(modality)
        items = self.image_index if modality == "vision" else np.arange(len(rows))
        usable = valid[items]
        return items[usable], rows[usable]

    def item_rows(self, modality: str) -> np.ndarray:
        """The row that holds each of `items`, ascending."""
        if modality == "text":
            return self.caption_rows
        return self.image_rows if modality == "vision" else np.arange(len(self))

    def item_labels(self, modality: str, items: np.ndarray) -> np.ndarray:
        """(n,) int64, equal for equal items: of captions a digest of the text, else the number."""
        if modality != "text":
            return np.asarray(items, np.int64)
        texts = self.captions.take(items)
        digests = b"".join(hashlib.blake2b(t.encode(), digest_size=8).digest() for t in texts)
        return np.frombuffer(digests, np.int64).copy()

    def examples(self, count: int) -> tuple[list[Image.Image | None], list[str]]:
        """The first `count` images that have a caption, each with its first; None for images in a
        table that has none.
        """
        rows, first = np.unique(self.caption_rows, return_index=True)
        numbers, first_rows = np.unique(self.image_index[rows], return_index=True)
        captions = (self.captions[item] for item in first[first_rows])
        pictured = self.has("image").any()
        rows = self.image_rows[numbers]
        images = (self.images([row])[0] if pictured else None for row in rows)
        pairs = (pair for pair in zip(images, captions, strict=True) if pair[0] or not pictured)
        shown = [*islice(pairs, count)]
        return [image for image, _ in shown], [caption for _, caption in shown]

    def skip(self, reason: str, row: int, error: object = "") -> None:
        """Count a row that is left out."""
        self.skip_rows(reason, [row], error)

    def skip_all(self, skipped: Mapping[int, Skipped]) -> None:
        """Count rows that are left out, each for a reason of its own."""
        rows = defaultdict(list)
        for row, item in skipped.items():
            rows[item.reason].append(row)
        for reason, own in rows.items():
            self.skip_rows(reason, own, skipped[own[0]].error)

    def skip_rows(self, reason: str, rows: Sequence[int], error: object = "") -> None:
        """Count rows that are left out. A line names the first of a reason, and again from the
        10th, 100th, ... on: rows may come one at a time.
        """
        if added := self.count_skipped(reason, rows):
            self._log_skipped(reason, added, error)

    def skip_names(self, reason: str, names: Sequence[str]) -> None:
        """Count what a source could not make rows of, by name."""
        self.skipped[reason] += names
        self._log_skipped(reason, len(names))

    def _log_skipped(self, reason: str, added: int, error: object = "") -> None:
        names = self.skipped[reason]
        before = len(names) - added
        if not before or len(str(len(names))) > len(str(before)):
            log.warning("%s: %s", self.name, skip_line(reason, names, error))

    def count_skipped(self, reason: str, rows: Sequence[int]) -> int:
        """Count rows without a line, each once a reason. Returns how many are new."""
        known = self._skipped_rows[reason]
        if new := [row for row in dict.fromkeys(map(int, rows)) if row not in known]:
            known.update(new)
            self.skipped[reason] += self.ids.take(new)
        return len(new)

    def column(self, name: str) -> list:
        """A whole column as Python objects; nulls where the source has no such column."""
        return self.arrow(name).to_pylist()

    def arrow(self, name: str) -> pa.ChunkedArray:
        """A whole column, which is copied only for a selection of rows."""
        values, stored = self._arrow(name), self._stored_rows
        return values if stored is None else take_rows(values, stored)

    def cells(self, name: str, rows: Sequence[int]) -> list:
        """The values of some rows; nulls where the source has no such column."""
        values, stored = self._arrow(name), self._stored_rows
        places = rows if stored is None else stored[np.asarray(rows, np.int64)]
        return [values[int(place)].as_py() for place in places]

    def paths(self, name: str, rows: Sequence[int]) -> list[str | None]:
        """The file that each of some rows' cells refers to; None where they hold the content."""
        values, stored = self._arrow(name), self._stored_rows
        if not (is_text(values.type) or pa.types.is_struct(values.type)):
            return [None] * len(rows)
        rows = np.asarray(rows, np.int64)
        return cell_paths(take_rows(values, rows if stored is None else stored[rows])).to_pylist()

    def texts(self, name: str) -> Texts:
        """Every text of a column that is not empty, stripped."""
        return read_texts(self._arrow(name), self._stored_rows)

    def has(self, name: str) -> np.ndarray:
        """(N,) bool: where a column is not null. The values themselves are not read."""
        return self._select(is_filled(self._arrow(name)))

    def _select(self, values: np.ndarray) -> np.ndarray:
        """Values of all stored rows -> those of this table's rows."""
        return values if self._stored_rows is None else values[self._stored_rows]

    def _arrow(self, name: str) -> pa.ChunkedArray:
        """A column of the stored table, which may have more rows than this one."""
        if name not in self._columns:
            self._columns[name] = valid_texts(stored_column(self.dataset, name))
        return self._columns[name]

    def __getstate__(self) -> dict:
        """Without the columns: pickled, their memory maps would become copies."""
        state = {name: value for name, value in self.__dict__.items() if name != "captions"}
        return state | {"_columns": {}}


class RowIds(LazySequence):
    """The id of each row of a table, as text; its number where it has none. Ids may repeat."""

    def __init__(self, table: Table):
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def take(self, numbers: Sequence[int]) -> list[str]:
        ids = zip(numbers, self.table.cells("id", numbers), strict=True)
        return [str(number if value is None else value) for number, value in ids]


def _decode_cell(column: str, value, decoder: Callable[[bytes], Any]) -> Any:
    try:
        content = read_cell(value)
        return Skipped(f"no {column}") if content is None else decoder(content)
    except Exception as error:  # decoders raise nearly anything on a broken file
        # soundfile's full text has the address of an object
        return Skipped(f"{column} does not decode", str(getattr(error, "error_string", error)))
