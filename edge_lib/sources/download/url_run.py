"""A URL download from its copied list to its summary."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edge_lib.config import ConfigError
from edge_lib.sources.download.statuses import TRANSIENT
from edge_lib.sources.download.url_list import UrlList
from edge_lib.sources.download.url_processes import run_processes, url_progress
from edge_lib.sources.download.url_shards import has_status, is_finished, shard_files
from edge_lib.sources.download.url_worker import UrlJob

log = logging.getLogger(__name__)
PLACEHOLDER_URLS = 10  # a picture that so many URLs give is hardly what each caption describes
MOST_REPEATED = 10


def is_complete(out: Path, retried: Set[str]) -> bool:
    """Whether all shards are finished, without rows of statuses that are fetched again."""
    if not UrlList.exists(out):
        return False
    lengths = UrlList(out).lengths()
    shards = [(shard_files(out, number), length) for number, length in enumerate(lengths)]
    return all(is_finished(*shard) and not has_status(shard[0], retried) for shard in shards)


def fetch_list(out: Path, make_jobs: Callable[[int], Sequence[UrlJob]], retried: Set[str]) -> None:
    """Finish all shards. make_jobs: number of shards -> a job for each process. retried: statuses
    of rows that are fetched again.

    Raises ConfigError for what stops it, such as a full disk; KeyboardInterrupt with a line.
    """
    lengths = UrlList(out).lengths()
    numbers = _clear_unfinished(out, lengths, retried)
    done = {*range(len(lengths))} - {*numbers}
    statuses, size = count_rows(_status_files(out, sorted(done)))
    counts = Counter(rows=statuses.total(), alive=statuses["ok"], bytes=size)
    try:
        with url_progress(sum(lengths), counts) as progress:
            run_processes(make_jobs(len(numbers)), numbers, progress)
    except KeyboardInterrupt:
        line = f"interrupted; {out} keeps what was fetched, and the same command goes on"
        raise KeyboardInterrupt(line) from None
    (out / "partial").rmdir()


def summarise(out: Path) -> dict[str, Any]:
    """What download.json says. ConfigError if there is no picture at all."""
    urls = UrlList(out)
    statuses = _status_files(out, range(urls.shards))
    failed, size = count_rows(statuses)
    alive = failed.pop("ok", 0)
    if not alive:
        retry = "; try again with --retry failed" if TRANSIENT & failed.keys() else ""
        if "private_address" in failed:
            retry += "; --allow-private fetches from local networks too"
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in failed.most_common())
        raise ConfigError(f"{out}: no URL gives a picture ({reasons}); see {out}/status{retry}")
    repeated = repeated_pictures(statuses)
    _warn_of_placeholders(repeated["most_repeated"])
    return {
        "rows": {"train": alive},
        "files": {"train": "train-*.parquet"},
        "source": urls.facts["source"],
        "skipped": dict(failed.most_common()) | urls.facts["skipped"],
        "alive": alive,
        "dead": failed.total(),
        "bytes": size,
        "repeated": repeated,
    }


def _clear_unfinished(out: Path, lengths: Sequence[int], retried: Set[str]) -> list[int]:
    """The shards to finish, without files that a killed process or a damaged disk has left."""
    leftovers = ".train-*.parquet.*", "status/.*.parquet.*", "partial/.*.journal.*"
    for path in (path for pattern in leftovers for path in out.glob(pattern)):
        path.unlink()
    for name in ("status", "partial"):
        (out / name).mkdir(exist_ok=True)
    numbers = []
    for number, length in enumerate(lengths):
        files = shard_files(out, number)
        finished = is_finished(files, length)
        if not finished:
            files.status.unlink(missing_ok=True)
        if not finished or files.journal.exists() or has_status(files, retried):
            numbers.append(number)
    return numbers


def _status_files(out: Path, numbers: Iterable[int]) -> list[Path]:
    return [shard_files(out, number).status for number in numbers]


def _warn_of_placeholders(repeated: Sequence[dict]) -> None:
    """A line if a picture stands under many URLs."""
    most = [picture for picture in repeated if picture["urls"] >= PLACEHOLDER_URLS]
    if most:
        count, example = most[0]["urls"], most[0]["url"]
        log.warning(
            f"{count} URLs give one and the same picture, such as {example}; it may say that the "
            f"right one is gone (download.json lists {len(most)} such pictures by sha256)"
        )


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
