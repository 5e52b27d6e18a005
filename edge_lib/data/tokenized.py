"""Tokenised conversations: their token ids, and the images and clips that they are about.

They are records of an Arrow table, in memory or mapped from a file. Placeholders are expanded when
a conversation is read, so that records do not depend on the number of soft tokens.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edge_lib.data.chat import Chat, TokenizedChat
from edge_lib.data.skipped import Skipped
from edge_lib.data.table import Table

REFUSED = "refused by the chat template"
NOT_ENCODED = "an image or clip could not be encoded"
RECORDS = pa.schema(
    [
        ("row", pa.int64()),
        ("problem", pa.string()),  # why the row is skipped; null if it is not
        ("error", pa.string()),
        ("images", pa.list_(pa.int64())),  # for each <image>, in order, a row with its image
        ("clips", pa.int64()),  # number of <audio>, which is the row's own
        ("ids", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.int32())),  # first token and end of each assistant turn
    ]
)


@dataclass
class TokenizedConversations:
    """M conversations that a model can be trained on."""

    table: Table
    chat: Chat
    records: pa.Table  # with the schema RECORDS
    numbers: np.ndarray  # (M,) the record of each

    @classmethod
    def from_records(cls, table: Table, chat: Chat, records: pa.Table) -> "TokenizedConversations":
        """Those without a problem and with few enough tokens; others are counted and skipped."""
        problems = records["problem"]
        skipped = records.select(RECORDS.names[:3]).filter(problems.is_valid()).to_pylist()
        skipped = {r["row"]: Skipped(r["problem"], r["error"] or "") for r in skipped}
        usable = cls(table, chat, records, np.flatnonzero(problems.is_null()))
        fits = usable.lengths <= chat.max_length
        for row, length in zip(usable.rows[~fits], usable.lengths[~fits], strict=True):
            skipped[int(row)] = Skipped(REFUSED, str(chat.too_long(length)))
        table.skip_all(dict(sorted(skipped.items())))
        return usable.select(fits)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and labels (S,)."""
        record = int(self.numbers[number])
        ids, spans = (self.records[name][record].values.to_numpy() for name in ("ids", "spans"))
        return self.chat.expand(TokenizedChat(ids, spans.reshape(-1, 2)))

    def items(self, number: int) -> dict[str, list[int]]:
        """The rows of a conversation's images and clips, by placeholder."""
        images, clips = self._images[number].as_py(), int(self._clips[number])
        return {"image": images, "audio": [int(self.rows[number])] * clips}

    def select(self, kept: np.ndarray) -> "TokenizedConversations":
        """Those for which `kept` (M,) is true."""
        return TokenizedConversations(self.table, self.chat, self.records, self.numbers[kept])

    def with_items(self) -> "TokenizedConversations":
        """Those with at least one image or clip."""
        return self.select((_lengths(self._images) + self._clips) > 0)

    def with_features(self, valid: dict[str, np.ndarray]) -> "TokenizedConversations":
        """Those whose images and clips could be encoded: valid[placeholder] (N,), by row."""
        owners = np.arange(len(self)).repeat(self._clips)
        items = {
            "image": (pc.list_parent_indices(self._images), pc.list_flatten(self._images)),
            "audio": (owners, self.rows[owners]),
        }
        kept = np.ones(len(self), bool)
        for name, mask in valid.items():
            numbers, rows = map(np.asarray, items[name])
            kept[numbers[~mask[rows]]] = False
        self.table.skip_rows(NOT_ENCODED, self.rows[~kept])
        return self.select(kept)

    @cached_property
    def rows(self) -> np.ndarray:
        """(M,) the row of each."""
        return self.records["row"].to_numpy()[self.numbers]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(M,) tokens, with soft tokens."""
        lengths = _lengths(self.records["ids"])[self.numbers]
        for name, counts in (("image", _lengths(self._images)), ("audio", self._clips)):
            lengths = lengths + counts * (self.chat.num_soft_tokens.get(name, 1) - 1)
        return lengths

    @cached_property
    def labelled(self) -> np.ndarray:
        """(M,) tokens with a label."""
        owners = np.asarray(pc.list_parent_indices(self.records["spans"]))
        starts, ends = np.asarray(pc.list_flatten(self.records["spans"])).reshape(-1, 2).T
        counts = np.bincount(owners[::2], ends - starts, len(self.records))
        return counts[self.numbers].astype(np.int64)

    @cached_property
    def _images(self) -> pa.ListArray:
        return self.records["images"].take(pa.array(self.numbers)).combine_chunks()

    @cached_property
    def _clips(self) -> np.ndarray:
        return self.records["clips"].fill_null(0).to_numpy()[self.numbers]


def _lengths(lists: pa.ListArray | pa.ChunkedArray) -> np.ndarray:
    """(N,) the number of values in each list; 0 for null."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
