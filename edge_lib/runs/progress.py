"""Progress of work over two seconds: a bar on a terminal or in a notebook, else lines."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm

SECONDS = 30  # between lines
DELAY = 2  # before anything is shown


class _Lines:
    """Takes what tqdm draws over and over as lines of a log."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(name: str, total: int | None, unit: str = "B", initial: int = 0) -> tqdm:
    """`update(n)` adds n of the unit; a line of a log comes every 30 s."""
    log = {"file": _Lines(), "mininterval": SECONDS, "maxinterval": SECONDS, "ncols": 79}
    interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
    options = {} if interactive else log
    return tqdm(desc=name, total=total, unit=unit, initial=initial, unit_scale=True, delay=DELAY, **options)


def track(items: Iterable[Any], name: str, total: int | None, unit: str) -> Iterator[Any]:
    """The items, counted by a `progress_bar`."""
    with progress_bar(name, total, unit) as bar:
        for item in items:
            yield item
            bar.update()
