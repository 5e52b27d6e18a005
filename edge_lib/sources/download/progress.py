"""The progress of a download: a bar on a terminal or in a notebook, lines in a log."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

LINE_SECONDS = 30


@contextmanager
def url_progress(total: int, done: Counter[str]) -> Iterator["UrlProgress"]:
    """Shows rows, the share of them that is alive, and bytes. done: counted by earlier calls."""
    interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
    progress = (BarProgress if interactive else LineProgress)(total, done)
    try:
        yield progress
    finally:
        progress.close()


class UrlProgress:
    """counts: rows, alive (of the rows), bytes, with those of earlier calls."""

    def __init__(self, total: int, done: Counter[str]):
        self.total, self.counts, self.start = total, done.copy(), time.monotonic()

    def add(self, counts: Counter[str]) -> None:
        self.counts += counts
        self.show(counts["rows"])

    @property
    def alive(self) -> str:
        return f"{self.counts['alive'] / max(1, self.counts['rows']):.0%}"

    @property
    def size(self) -> str:
        size = self.counts["bytes"]
        return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


class BarProgress(UrlProgress):
    def __init__(self, total: int, done: Counter[str]):
        from tqdm.auto import tqdm  # which imports the widgets of notebooks

        super().__init__(total, done)
        self.bar = tqdm(total=total, initial=done["rows"], unit=" rows", unit_scale=True)

    def show(self, rows: int) -> None:
        self.bar.set_postfix_str(f"{self.alive} alive, {self.size}", refresh=False)
        self.bar.update(rows)

    def close(self) -> None:
        self.bar.close()


class LineProgress(UrlProgress):
    def __init__(self, total: int, done: Counter[str]):
        super().__init__(total, done)
        self.first, self.next_line = done["rows"], self.start + LINE_SECONDS

    def show(self, rows: int) -> None:
        if time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            self._print_line()

    def close(self) -> None:
        self._print_line()

    def _print_line(self) -> None:
        rows, seconds = self.counts["rows"], time.monotonic() - self.start
        rate = (rows - self.first) / max(seconds, 1e-3)
        print(
            f"{rows:,} of {self.total:,} rows, {rate:,.0f} rows/s, {self.alive} alive, {self.size}",
            flush=True,
        )
