"""A URL download from its copied list to its summary."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from edge_lib.config import ConfigError
from edge_lib.sources.download.progress import url_progress
from edge_lib.sources.download.statuses import TRANSIENT
from edge_lib.sources.download.url_list import UrlList
from edge_lib.sources.download.url_processes import run_processes
from edge_lib.sources.download.url_shards import has_status, is_finished, shard_files
from edge_lib.sources.download.url_summary import count_rows, repeated_pictures
from edge_lib.sources.download.url_worker import UrlJob

log = logging.getLogger(__name__)
PLACEHOLDER_URLS = 10  # a picture that so many URLs give is hardly what each caption describes


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
        log.warning(
            "%d URLs give one and the same picture, such as %s; it may say that the right one is "
            "gone (download.json lists %d such pictures by sha256)",
            most[0]["urls"],
            most[0]["url"],
            len(most),
        )
