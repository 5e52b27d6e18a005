"""Tables of millions of rows: to open one, to build its batches, and to read the rows of a step.

Rivals: `pandas` reads captions into a list of Python strings; `random_sampler` is torch's
DataLoader over a Hugging Face data set. Plain ways: `ours_list_of_arrays` holds one array of items
a row; `ours_list_search` looks for a skipped row's id in the list of all earlier ones.
"""

import hashlib
import json
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from edge_lib.bench.tools import compare, in_new_process, peak_memory, status_mb
from edge_lib.config import DataConfig, TrainConfig
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.sources import load_table
from edge_lib.training.timing import seconds

SMALL, MILLION, LARGE = 10**5, 10**6, 5 * 10**6  # rows
BATCH, SKIPS = 256, 40_000


def table() -> dict[str, float]:
    """Seconds and memory of opening, building, stepping and skipping; see `docs/benchmarks.md`."""
    return _opening() | _building() | _stepping() | _skipping()


def _opening() -> dict[str, float]:
    """A Parquet file of a million captions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.parquet")
        pq.write_table(pa.table({"caption": _captions(MILLION)}), path)
        first = seconds(_open(folder))  # converts the file to Arrow, which is kept
        functions = {"ours": _open(folder), "pandas": _open_with_pandas(folder)}
        result = compare("seconds.open_1m", functions, rounds=5)
        memory = {
            "memory_mb.open_1m.ours": peak_memory(_open, folder),
            "memory_mb.open_1m.pandas": peak_memory(_open_with_pandas, folder),
        }
    ratio = memory["memory_mb.open_1m.pandas"] / memory["memory_mb.open_1m.ours"]
    memory["memory_mb.open_1m.pandas.ratio"] = ratio
    return {"seconds.convert_1m": first} | result | memory


def _open(folder: str):
    files = {split: [f"{folder}/{split}.parquet"] for split in ("train", "val", "test")}
    section = {**files, "image_column": None}
    config = DataConfig(source="parquet", parquet=section, cache_dir=folder)

    def read():
        opened = load_table(config, "train")
        return opened, opened.caption_rows, opened.captions.digest()

    return read


def _open_with_pandas(folder: str):
    def read():
        frame = pd.read_parquet(f"{folder}/train.parquet")
        captions = [text.strip() for text in frame["caption"] if text and text.strip()]
        return captions, hashlib.sha256(json.dumps(captions).encode()).hexdigest()

    return read


def _building() -> dict[str, float]:
    """Batches of rows with an image and a caption."""
    result = compare(
        "seconds.build_1m",
        {"ours": _build(MILLION), "ours_list_of_arrays": _split(MILLION)},
        rounds=2,
    )
    megabytes = in_new_process(_built_mb, LARGE)
    return result | {
        "seconds.build_5m": seconds(_build(LARGE)),
        "bytes_per_row.build_5m": megabytes * 2**20 / LARGE,
    }


def _build(rows: int):
    opened = _table(rows)
    features = {"vision": _Numbers(rows), "text": _Numbers(len(opened.captions))}
    return lambda: AlignmentBatches(opened, features, TrainConfig(batch_size=BATCH), seed=0)


def _built_mb(rows: int) -> float:
    """MB that batches hold beyond their table."""
    build = _build(rows)
    before = status_mb("VmRSS")
    _batches = build()
    return status_mb("VmRSS") - before


def _split(rows: int):
    """One array of items for each row and modality."""
    items = np.arange(rows)
    return lambda: [np.split(items, items[1:]) for _ in ("vision", "text")]


def _stepping() -> dict[str, float]:
    """A step's rows, and its batch of BATCH rows, each time in another epoch; the rival's batches
    follow one another.
    """
    large, small, steps = _build(LARGE)(), _build(SMALL)(), count()
    loader = DataLoader(large.table.dataset, BATCH, shuffle=True, collate_fn=list)
    loaded = iter(loader)

    def far(batches: AlignmentBatches) -> int:
        return (next(steps) * 7919) % (10 * batches.steps_per_epoch)

    sizes = {"ours": large, "ours_at_100k_rows": small}
    rows = {name: partial(lambda b: b.global_rows(far(b)), b) for name, b in sizes.items()}
    batches = {name: partial(lambda b: b[far(b)], b) for name, b in sizes.items()}
    batches["random_sampler"] = lambda: next(loaded)
    result = compare("seconds.rows_5m", rows, rounds=50)
    result |= compare("seconds.batch_5m", batches, rounds=50)
    first = {"ours": batches["ours"], "random_sampler": lambda: next(iter(loader))}
    result |= compare("seconds.first_batch_5m", first, rounds=3)
    for name in ("rows", "batch"):
        result[f"growth.{name}"] = 1 / result[f"seconds.{name}_5m.ours_at_100k_rows.ratio"]
    return result


def _skipping() -> dict[str, float]:
    """SKIPS rows that are left out, each counted once."""
    ids = [f"row {number}" for number in range(SKIPS)]
    opened = Table(Dataset.from_dict({"id": ids}), "skips", "")
    reasons = count()

    def ours():
        reason = f"reason {next(reasons)}"
        for row in range(SKIPS // 4):
            opened.skip(reason, row)

    def list_search():
        skipped = []
        for name in ids[: SKIPS // 4]:
            if name not in skipped:
                skipped.append(name)

    functions = {"ours": ours, "ours_list_search": list_search}
    result = compare("seconds.skip_10k", functions, rounds=3)
    return result | {"seconds.skip_40k": seconds(lambda: [ours() for _ in range(4)])}


class _Numbers:
    """Features that are all valid, and one number each."""

    def __init__(self, items: int):
        self.valid = np.ones(items, bool)

    def gather(self, items: np.ndarray) -> EncoderOutput:
        return EncoderOutput(None, None, torch.from_numpy(items)[:, None])


def _table(rows: int) -> Table:
    columns = {"texts": _captions(rows), "image": pa.repeat(b"image", rows)}
    return Table(Dataset(pa.table(columns), fingerprint="bench"), "bench", "")


def _captions(rows: int) -> pa.Array:
    """Captions of about 50 characters, half of which occur twice."""
    numbers = pa.array(np.arange(rows) // 4 * 3).cast(pa.string())
    start, end = (
        pa.scalar(text) for text in (" a photo of number ", " on a table beside a window")
    )
    return pc.binary_join_element_wise(start, numbers, end, "")
