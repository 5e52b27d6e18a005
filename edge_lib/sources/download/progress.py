"""The progress of a URL download."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from edge_lib.runs.progress import progress_bar


@contextmanager
def url_progress(total: int, done: Counter[str]) -> Iterator["UrlProgress"]:
    """Shows rows, the share of them that is alive, and bytes. done: counted by earlier calls."""
    with progress_bar("fetch", total, " rows", done["rows"]) as bar:
        yield UrlProgress(bar, done)


class UrlProgress:
    """counts: rows, alive (of the rows), bytes, with those of earlier calls."""

    def __init__(self, bar: tqdm, done: Counter[str]):
        self.bar, self.counts = bar, done.copy()

    def add(self, counts: Counter[str]) -> None:
        self.counts += counts
        alive = self.counts["alive"] / max(1, self.counts["rows"])
        line = f"{alive:.0%} alive, {_size(self.counts['bytes'])}"
        self.bar.set_postfix_str(line, refresh=False)
        self.bar.update(counts["rows"])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
