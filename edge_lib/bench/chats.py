"""Tokenising 665,000 conversations like LLaVA's with the shipped tokenizer, and opening them again.

The rival is transformers' `apply_chat_template`, one conversation at a time: it gives ids, but no
labels. Both starts are those of a new process after its imports.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.bench.tools import in_new_process, status_mb
from edge_lib.config.language import LanguageConfig
from edge_lib.data.chat import Chat
from edge_lib.data.chat_store import open_tokenized
from edge_lib.data.table import SCHEMA
from edge_lib.nn.decoders.language import load_tokenizer
from edge_lib.sources.parquet import read_parquet
from edge_lib.training.timing import seconds

CONVERSATIONS = 665_000
SHAPES = ((5, 11, 2), (1, 12, 90), (3, 11, 22))  # rounds, words of a question, of an answer
SAMPLE = 3000  # conversations that differ
LANGUAGE = LanguageConfig(model="tiny-qwen2")


def chats() -> dict[str, float]:
    """Seconds and MB of both starts; milliseconds of a conversation."""
    sample = sample_conversations()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chats.parquet"
        _write(path, sample)
        first, second = (in_new_process(_start, path) for _ in range(2))
    tokenizer = load_tokenizer(LANGUAGE)
    rival = seconds(lambda: [tokenizer.apply_chat_template(messages) for messages in sample])
    times = {"ours": first["seconds"] / CONVERSATIONS, "one_by_one": rival / SAMPLE}
    return {
        **{f"{name}.first": value for name, value in first.items()},
        **{f"{name}.second": value for name, value in second.items()},
        **{f"milliseconds.{name}": 1000 * value for name, value in times.items()},
        "milliseconds.one_by_one.ratio": times["one_by_one"] / times["ours"],
    }


def sample_conversations() -> list[list[dict[str, str]]]:
    """Conversations of invented words, about an image that the rows do not have."""
    rng = np.random.default_rng(0)
    letters = np.array([*"etaoinshrdlu"])
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, 3000)]

    def text(count: int) -> str:
        return " ".join(rng.choice(words, count))

    return [
        [
            {"role": role, "content": text(count)}
            for _ in range(rounds)
            for role, count in (("user", question), ("assistant", answer))
        ]
        for rounds, question, answer in (SHAPES[n % len(SHAPES)] for n in range(SAMPLE))
    ]


def _write(path: Path, sample: list[list[dict[str, str]]]) -> None:
    """A Parquet file of CONVERSATIONS rows."""
    turns, numbers = pa.array(sample, SCHEMA.field("turns").type), np.arange(CONVERSATIONS)
    with pq.ParquetWriter(path, pa.schema([SCHEMA.field("turns")])) as writer:
        for part in np.array_split(numbers % SAMPLE, 100):
            writer.write_table(pa.table({"turns": turns.take(pa.array(part))}))


def _start(path: Path) -> dict[str, float]:
    """Seconds and peak MB of opening the table and its tokenised conversations."""
    chat = Chat(load_tokenizer(LANGUAGE), {"image": 9}, 2048)
    before, start, cpu = status_mb("VmRSS"), time.perf_counter(), time.process_time()
    table = read_parquet([path], "chats", path.parent)
    opened = time.perf_counter()
    count = len(open_tokenized(table, chat, path.parent))
    assert count == CONVERSATIONS
    times = {"seconds": time.perf_counter() - start, "seconds.cpu": time.process_time() - cpu}
    return times | {"seconds.table": opened - start, "memory.peak_mb": status_mb("VmHWM") - before}
