"""Progress of work over two seconds: a bar on a terminal or in an open notebook, else lines."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from multiprocessing import parent_process
from typing import Any

from tqdm import tqdm

from edge_lib.runs.relay import RelayedBar

SECONDS = 30  # between lines
DELAY = 2  # before anything is shown
OPENED = "JPY_SESSION_NAME", "VSCODE_PID"  # set in the kernels of JupyterLab and of VS Code


class _Lines:
    """Takes what tqdm draws over and over as lines of a log."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


def in_open_notebook() -> bool:
    """Whether this is a kernel that JupyterLab or VS Code started, not papermill: in a notebook
    that is executed headlessly, widgets would only add their state to the file.
    """
    started = any(name in os.environ for name in OPENED)
    return started and parent_process() is None  # the environment is inherited


@contextlib.contextmanager
def headless_environment() -> Iterator[None]:
    """The notebooks that this process executes meanwhile are headless, though it may be open."""
    before = {name: os.environ.pop(name) for name in OPENED if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def draws_widgets() -> bool:
    """Whether a `progress_bar` of this process is drawn in an open notebook, here or relayed."""
    return in_open_notebook() or RelayedBar.file is not None


def progress_bar(name: str, total: int | None, unit: str = "B", initial: int = 0) -> tqdm:
    """`update(n)` adds n of the unit; a line of a log comes every 30 s."""
    options = {"desc": name, "total": total, "unit": unit, "initial": initial, "delay": DELAY}
    options["unit_scale"] = not total or total >= 10_000  # "12.3k/45.6k"; fewer are shown exactly
    if in_open_notebook():
        from tqdm.auto import tqdm as widget  # imports ipywidgets

        return widget(**options)
    if RelayedBar.file:
        return RelayedBar(**options)
    if not sys.stderr.isatty():
        options |= {"file": _Lines(), "mininterval": SECONDS, "maxinterval": SECONDS, "ncols": 79}
    return tqdm(**options)


def track(items: Iterable[Any], name: str, total: int | None, unit: str) -> Iterator[Any]:
    """The items, counted by a `progress_bar`."""
    with progress_bar(name, total, unit) as bar:
        for item in items:
            yield item
            bar.update()
