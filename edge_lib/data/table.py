"""The table format that all sources share, read lazily.

Columns: `id`, `image` (encoded bytes), `texts` (captions), `audio` (encoded bytes), `question`,
`answers`, `kind` (of the question), `group` (rows that are edits of one another), `image_id` (rows
with the same one share the image of the first), `turns` (a conversation) and `image_ids` (of the
images that it is about, unless it is about the row's own). Any of them may be null: a null is a
missing modality. Bytes stay encoded until an item is read. An item that does not decode, or a row
without a caption, is logged with its id and skipped; `Table.skipped` counts.
"""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, disable_progress_bars
from PIL import Image

from edge_lib.config import MODALITIES
from edge_lib.config.registry import load_registered
from edge_lib.data.cells import read_cell

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


@dataclass
class Questions:
    """The questions of a table that have an answer, in the order of its rows."""

    rows: np.ndarray  # (M,) the row of each
    texts: list[str]
    answers: list[list[str]]  # one or several references each
    kinds: list[str]


class Table:
    """Rows of one split. `rows` arguments are sequences of row numbers."""

    def __init__(self, dataset: Dataset, name: str, fingerprint: str):
        """fingerprint: names the content; stored features belong to it."""
        self.dataset, self.name, self.fingerprint = dataset, name, fingerprint
        self.skipped: dict[str, list[str]] = defaultdict(list)  # reason -> id of each row
        self._skipped_rows: dict[str, set[int]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self.dataset)

    def select(self, rows: Sequence[int], name: str, fingerprint: str) -> "Table":
        """A table of some rows, in this order."""
        return Table(self.dataset.select(rows), name, fingerprint)

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row, or its number where the source has none."""
        return [str(row if id is None else id) for row, id in enumerate(self.column("id"))]

    @cached_property
    def groups(self) -> np.ndarray:
        """(N,) a number that rows share if they are edits of one another or have the same image."""
        groups = zip(self.column("group"), self.image_index, strict=True)
        return np.array([-1 - image if group is None else group for group, image in groups])

    @cached_property
    def _captions(self) -> tuple[list[str], np.ndarray]:
        texts, owners = [], []
        for row, captions in enumerate(self.column("texts")):
            captions = [captions] if isinstance(captions, str) else captions or []
            kept = [caption.strip() for caption in captions if caption and caption.strip()]
            if not kept:
                self.skip("no caption", row)
            texts += kept
            owners += [row] * len(kept)
        return texts, np.array(owners, dtype=np.int64)

    @property
    def captions(self) -> list[str]:
        """Every caption that is not empty; those of one row stand together."""
        return self._captions[0]

    @property
    def caption_rows(self) -> np.ndarray:
        """(len(captions),) the row of each caption, ascending."""
        return self._captions[1]

    @cached_property
    def questions(self) -> Questions:
        """Every question that is not empty and has an answer; others are counted and skipped."""
        rows, kept = [], Questions(np.array([], np.int64), [], [], [])
        columns = (self.column(name) for name in ("question", "answers", "kind"))
        for row, (text, answers, kind) in enumerate(zip(*columns, strict=True)):
            answers = [a.strip() for a in answers or [] if a and a.strip()]
            if not (text or "").strip():
                self.skip("no question", row)
            elif not answers:
                self.skip("no answer", row)
            else:
                rows.append(row)
                kept.texts.append(text.strip())
                kept.answers.append(answers)
                kept.kinds.append(kind or "question")
        kept.rows = np.array(rows, np.int64)
        return kept

    @cached_property
    def image_rows(self) -> np.ndarray:
        """(P,) the row that holds each distinct image."""
        return self._images[0]

    @cached_property
    def image_index(self) -> np.ndarray:
        """(N,) the number of each row's image."""
        return self._images[1]

    @cached_property
    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        names = enumerate(self.column("image_id"))
        names = [row if name is None else name for row, name in names]
        numbers = pd.factorize(np.array(names, dtype=object))[0]
        return np.unique(numbers, return_index=True)[1], numbers

    def images(self, rows) -> list[Image.Image | None]:
        """RGB images; None where a row has none or one that does not decode."""
        return self.decode("vision", rows)

    def clips(self, rows) -> list[np.ndarray | None]:
        """Mono clips (n,) at 16 kHz; None where a row has none or one that does not decode."""
        return self.decode("audio", rows)

    def decode(self, modality: str, rows) -> list:
        """Decoded items; None where a row has none or one that does not decode."""
        column = MODALITIES[modality].column
        decoder = load_registered(MODALITIES[modality].decode)
        exists = column in self.dataset.column_names
        values = self.dataset[list(map(int, rows))][column] if exists else [None] * len(rows)
        return [
            self._decode_cell(column, *cell, decoder) for cell in zip(rows, values, strict=True)
        ]

    def _decode_cell(self, column: str, row: int, value, decoder: Callable[[bytes], Any]):
        try:
            content = read_cell(value)
            if content is None:
                self.skip(f"no {column}", row)
                return None
            return decoder(content)
        except Exception as error:  # decoders raise nearly anything on a broken file
            self.skip(f"{column} does not decode", row, error)
            return None

    def items(self, modality: str) -> list | range:
        """What an encoder encodes: every distinct image, row with sound, or caption."""
        if modality == "text":
            return self.captions
        return range(len(self.image_rows if modality == "vision" else self))

    def item_rows(self, modality: str) -> np.ndarray:
        """The row that each of `items` belongs to, ascending."""
        if modality == "text":
            return self.caption_rows
        return self.image_rows if modality == "vision" else np.arange(len(self))

    def item_fingerprint(self, modality: str) -> str:
        """Names the items. Captions are named by their content: tables may share their features."""
        if modality != "text":
            return self.fingerprint
        return hashlib.sha256(json.dumps(self.captions).encode()).hexdigest()[:16]

    def item_labels(self, modality: str, items: np.ndarray) -> np.ndarray:
        """(n,) int64, equal for equal items: of captions a digest of the text, else the number."""
        if modality != "text":
            return np.asarray(items, np.int64)
        texts = (self.captions[item].encode() for item in items)
        digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
        return np.frombuffer(digests, np.int64).copy()

    def examples(self, count: int) -> tuple[list[Image.Image], list[str]]:
        """Images and first captions of the first `count` rows that have both."""
        rows, first = np.unique(self.caption_rows, return_index=True)
        captions = (self.captions[item] for item in first)
        images = (self.images([row])[0] for row in rows)
        pairs = (pair for pair in zip(images, captions, strict=True) if pair[0])
        return tuple(map(list, zip(*islice(pairs, count), strict=True)))

    def skip(self, reason: str, row: int, error: Exception | None = None) -> None:
        """Count and log a row or item that is left out."""
        name = self.ids[int(row)]
        if row not in self._skipped_rows[reason]:
            self._skipped_rows[reason].add(row)
            self.skipped[reason].append(name)
            log.warning("%s: skipped %s: %s%s", self.name, name, reason, f": {error}" * bool(error))

    def column(self, name: str) -> list:
        """A whole column; nulls where the source has no such column."""
        exists = name in self.dataset.column_names
        return self.dataset[name][:] if exists else [None] * len(self)

    def has(self, name: str) -> np.ndarray:
        """(N,) bool: where a column is not null. The values themselves are not read."""
        if name not in self.dataset.column_names:
            return np.zeros(len(self), bool)
        return self.dataset.with_format("arrow")[name][:].is_valid().to_numpy()
