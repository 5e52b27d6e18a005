"""What a finished URL download counts: rows by status, bytes, pictures that several URLs give."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MOST_REPEATED = 10


def count_rows(statuses: Sequence[Path]) -> tuple[Counter[str], int]:
    """Rows by status, and the bytes of their pictures. statuses: files of finished shards."""
    counts, size = Counter(), 0
    for path in statuses:
        table = pq.read_table(path, columns=["status", "bytes"])
        for entry in table["status"].value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
        size += pc.sum(table["bytes"]).as_py() or 0
    return counts, size


def repeated_pictures(statuses: Sequence[Path]) -> dict:
    """Pictures that more than one URL gives, such as "photo no longer available": how many there
    are, how many URLs give them, and those with the most URLs. Keeps 16 bytes a row in memory.
    """
    pairs = [_hashes(table) for table in _alive(statuses)]
    pictures, urls = np.concatenate([*pairs, np.zeros((0, 2), np.int64)]).T
    order = np.lexsort((urls, pictures))
    pictures, urls = pictures[order], urls[order]
    new = np.ones(len(urls), bool)  # not the same URL again
    new[1:] = (np.diff(pictures) != 0) | (np.diff(urls) != 0)
    pictures, counts = np.unique(pictures[new], return_counts=True)
    pictures, counts = pictures[counts > 1], counts[counts > 1]
    most = np.argsort(-counts, kind="stable")[:MOST_REPEATED]
    examples = _examples(statuses, pictures[most])
    return {
        "pictures": len(pictures),
        "urls": int(counts.sum()),
        "most_repeated": [{"urls": int(counts[i])} | examples[int(pictures[i])] for i in most],
    }


def _alive(statuses: Sequence[Path]) -> Iterator[pa.Table]:
    for path in statuses:
        table = pq.read_table(path, columns=["url", "sha256"])
        yield table.filter(pc.is_valid(table["sha256"]))


def _hashes(table: pa.Table) -> np.ndarray:
    """(N, 2) hashes of picture and URL. Those of a URL are other ones in another process."""
    urls = np.fromiter(map(hash, table["url"].to_pylist()), np.int64, len(table))
    starts = pc.utf8_slice_codeunits(table["sha256"], 0, 16).to_pylist()
    return np.stack([np.frombuffer(bytes.fromhex("".join(starts)), ">i8"), urls], 1)


def _examples(statuses: Sequence[Path], pictures: np.ndarray) -> dict[int, dict[str, str]]:
    """The first URL of each picture."""
    examples: dict[int, dict[str, str]] = {}
    for table in _alive(statuses):
        if len(examples) == len(pictures):
            break
        hashes = _hashes(table)[:, 0]
        for row in np.flatnonzero(np.isin(hashes, pictures)):
            if int(hashes[row]) not in examples:
                examples[int(hashes[row])] = table.slice(row, 1).to_pylist()[0]
    return examples
