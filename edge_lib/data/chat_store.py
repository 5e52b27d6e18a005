"""Tokenises the conversations of a table once, with all cores, and keeps them in the cache.

One process writes, others wait. The file's name is a digest of all that its records depend on: the
conversations, the tokenizer and its chat template, and VERSION.
"""

import hashlib
import io
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import tokenizers

from edge_lib.data.chat import Chat, ChatError, TokenizedChat
from edge_lib.data.conversations import Conversations, arrow_column, read_conversations
from edge_lib.data.table import Table
from edge_lib.data.tokenized import RECORDS, REFUSED, TokenizedConversations
from edge_lib.runs.files import whole_file
from edge_lib.runs.lock import hold_lock

VERSION = 1  # raised whenever the same conversations give other records


def open_tokenized(table: Table, chat: Chat, cache_dir: Path) -> TokenizedConversations:
    """The conversations of a table from a file in the cache, which is written if there is none."""
    path = cache_dir / "chats" / f"{_fingerprint(table, chat)}.arrow"
    if (records := _read(path)) is None:
        with hold_lock(path.with_suffix(".lock")):
            records = _read(path) or _write(path, table, chat)
    return TokenizedConversations.from_records(table, chat, records)


def _write(path: Path, table: Table, chat: Chat) -> pa.Table:
    with whole_file(path) as temporary, pa.ipc.new_file(str(temporary), RECORDS) as writer:
        for batch in _records(read_conversations(table), chat):
            writer.write(batch)
    return _read(path)


def _read(path: Path) -> pa.Table | None:
    """The records of a file; None if there is none, or if a crash of the machine cut it short."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def tokenize(conversations: Conversations, table: Table, chat: Chat) -> TokenizedConversations:
    """The same in memory."""
    records = pa.Table.from_batches(_records(conversations, chat), RECORDS)
    return TokenizedConversations.from_records(table, chat, records)


def _records(conversations: Conversations, chat: Chat) -> Iterator[pa.RecordBatch]:
    skipped = conversations.skipped
    yield _batch(len(skipped), row=[*skipped], problem=[s.reason for s in skipped.values()])
    for part, tokenized in _tokenized(conversations, chat):
        errors = [str(chat) if isinstance(chat, ChatError) else None for chat in tokenized]
        chats = [None if isinstance(chat, ChatError) else chat for chat in tokenized]
        yield _batch(
            len(part),
            row=part.rows,
            problem=[error and REFUSED for error in errors],
            error=errors,
            images=part.images,
            clips=part.clips,
            ids=[chat and chat.ids for chat in chats],
            spans=[chat and chat.spans.ravel() for chat in chats],
        )


def _batch(rows: int, **columns) -> pa.RecordBatch:
    """Records with these columns; the others are null."""
    arrays = [
        pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type)
        for f in RECORDS
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=RECORDS)


def _tokenized(
    conversations: Conversations, chat: Chat
) -> Iterator[tuple[Conversations, list[TokenizedChat | ChatError]]]:
    """Conversations in parts. Python renders a part while the tokenizer's threads work on the one
    before.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = deque()
        for part in conversations.parts():
            rendered = [chat.render(messages) for messages in part.messages]
            pending.append((part, pool.submit(chat.tokenize_rendered, rendered)))
            if len(pending) > 1:
                first, future = pending.popleft()
                yield first, future.result()
        yield from ((part, future.result()) for part, future in pending)


def _fingerprint(table: Table, chat: Chat) -> str:
    """A digest of the conversations and of everything that turns them into records."""
    tokenizer = chat.tokenizer
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings |= {"truncation": None, "padding": None}  # left over from other calls
    facts = VERSION, tokenizers.__version__, tokenizer.special_tokens_map, [*chat.placeholders]
    facts = [*facts, tokenizer.get_chat_template(), settings, chat.system]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode())
    for name in ("turns", "image_id", "image_ids"):
        column = pa.table({name: arrow_column(table, name)})
        with pa.ipc.new_stream(_HashFile(digest), column.schema) as writer:
            writer.write_table(column)
    for name in ("image", "audio"):
        digest.update(table.has(name).tobytes())
    return digest.hexdigest()[:16]


class _HashFile(io.RawIOBase):
    """A file that is not kept: it updates a hash."""

    def __init__(self, digest):
        self.digest = digest

    def writable(self) -> bool:
        return True

    def write(self, content) -> int:
        self.digest.update(content)
        return len(content)
