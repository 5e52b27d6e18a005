"""Downloads of pictures whose URLs stand in a list, with captions."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.request import getproxies_environment

from joblib import cpu_count
from pydantic import Field, PositiveFloat

from edge_lib.config.base import Count, Positive
from edge_lib.sources.download.base import Download, LocalPath
from edge_lib.sources.download.fetch import FetchLimits
from edge_lib.sources.download.statuses import TRANSIENT
from edge_lib.sources.download.url_list import UrlList
from edge_lib.sources.download.url_lists import ListFormat, copy_list, list_sha256
from edge_lib.sources.download.url_run import fetch_list, is_complete, summarise
from edge_lib.sources.download.url_worker import UrlJob

log = logging.getLogger(__name__)


class UrlDownload(Download):
    """Pictures whose URLs stand in a list, with captions."""

    PROCESS: ClassVar[frozenset[str]] = Download.PROCESS | {
        "list",  # its content counts, not its place
        "processes",
        "connections",
        "per_host",
        "timeout",
        "retries",
        "contact",
        "retry",
        "allow_private",
        "ignore_noai",
    }
    TRACES: ClassVar[frozenset[str]] = Download.TRACES | {"list", "status", "hub"}
    LICENCE: ClassVar[str | None] = None

    list: LocalPath = Field(
        description="csv, tsv, json, jsonl or Parquet (also .gz, .bz2, .zst): a file, a glob "
        "pattern, or a folder of such files"
    )
    processes: Positive | None = Field(
        None, description="at most, and at most per_host (default the number of cores)"
    )
    connections: Positive = Field(512, description="open at a time, in all processes together")
    per_host: Positive = Field(8, description="of them to one host")
    timeout: PositiveFloat = Field(20, description="seconds for a whole response")
    retries: Count = Field(3, description="of transient failures: timeouts, resets, 429 and 5xx")
    contact: str = Field(
        "",
        pattern="^[ -~]*$",
        description="e-mail address or web page for the User-Agent; hosts such as Wikimedia's "
        "refuse clients without one",
    )
    max_bytes: Positive = Field(50_000_000, description="of a response")
    max_pixels: Positive = Field(100_000_000, description="of a picture")
    max_side: Positive | None = Field(
        None, description="shrink larger pictures to this side, as JPEG (default as they are)"
    )
    shard_rows: Positive = Field(1000, description="rows of the list in one file")
    allow_private: bool = Field(False, description="also fetch from addresses of local networks")
    ignore_noai: bool = Field(False, description="also keep what X-Robots-Tag: noai forbids")
    retry: Literal["failed"] | None = Field(
        None, description="failed: fetch rows again that had transient failures"
    )

    @property
    def list_format(self) -> ListFormat:
        raise NotImplementedError

    @property
    def retried(self) -> frozenset[str]:
        """Statuses of rows that are fetched again: those that options now allow, or ask for."""
        allowed = {"private_address": self.allow_private, "noai": self.ignore_noai}
        allowed |= dict.fromkeys(TRANSIENT, self.retry)
        return frozenset(status for status, again in allowed.items() if again)

    @property
    def repeats(self) -> bool:
        return not is_complete(self.out, self.retried)

    def content(self) -> dict[str, Any]:
        digest = {"list_sha256": list_sha256(self.list, self.out)} if self.list else {}
        return super().content() | digest

    def list_path(self) -> tuple[Path, Any]:
        """Where the list is, or now has been downloaded to, and its source for download.json."""
        return self.list, str(self.list)

    def run(self) -> dict[str, Any]:
        if proxies := getproxies_environment().keys() & {"http", "https", "all"}:
            names = ", ".join(f"{name.upper()}_PROXY" for name in sorted(proxies))
            log.warning("%s is ignored: URLs of a list are fetched without a proxy", names)
        start = time.monotonic()
        if not UrlList.exists(self.out):
            path, source = self.list_path()
            size = self.shard_rows, self.rows, self.seed
            copy_list(path, self.list_format, self.out, *size, source)
        fetch_list(self.out, self.jobs, self.retried)
        summary = summarise(self.out)
        seconds = round(time.monotonic() - start, 1)
        return summary | {"licence": self.LICENCE, "seconds": seconds}

    def jobs(self, shards: int) -> Sequence[UrlJob]:
        """A job for each process, with its share of the connections."""
        cores = cpu_count()
        most = self.processes or cores, self.connections, self.per_host, shards
        limits = FetchLimits(**self.model_dump(include={*FetchLimits.__dataclass_fields__}))
        decode, rest = (self.max_side, self.max_pixels), (self.seed, self.retried)
        count = min(most)
        shares = zip(_shares(self.connections, count), _shares(self.per_host, count), strict=True)
        threads = max(1, cores // max(1, count))
        return [UrlJob(self.out, limits, *share, threads, *decode, *rest) for share in shares]


class UrlsDownload(UrlDownload):
    """Pictures of a list of your own, a row of which has a URL and a caption.

    Writes train-*.parquet with the rows whose URL gives a picture (image, caption, url, sha256,
    ...), and status/*.parquet with what became of every row. A URL that stands in several rows of
    a shard is fetched once.
    """

    url_column: str = Field("url", description="name, or dotted field, of the list's URLs")
    caption_column: str = Field("caption", description="likewise of its captions")

    @property
    def list_format(self) -> ListFormat:
        return ListFormat(self.url_column, self.caption_column)


def _shares(total: int, count: int) -> list[int]:
    """`total` divided into `count` nearly equal numbers."""
    return [total // count + (number < total % count) for number in range(count)]
