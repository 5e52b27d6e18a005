"""Progress bars of a launched process, drawn by the open notebook that launched it.

A process without a kernel cannot show a widget. It appends the state of its bars to a file, one
line of JSON each time; a thread of the notebook follows the file. Neither process waits.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

from tqdm import tqdm

INTERVAL = 0.25  # seconds between two states of a bar, and between two looks at the file


class RelayedBar(tqdm):
    """Writes its state to `file` where another bar draws itself."""

    file: ClassVar[Path | None] = None

    def __init__(self, **options: Any):
        options |= {"delay": 0, "mininterval": INTERVAL}  # the bar that is drawn has the delay
        super().__init__(gui=True, **options)  # gui: do not write to the terminal
        self.display()

    def display(self, *_: Any, closed: bool = False) -> None:
        options = {"name": self.desc, "total": self.total, "unit": self.unit}
        state = {"n": self.n, "postfix": self.postfix or "", "closed": closed}
        with contextlib.suppress(OSError), self.file.open("a") as file:  # a full disk: only no bar
            file.write(json.dumps({"bar": id(self), "options": options, **state}) + "\n")

    def close(self) -> None:
        if not self.disable:
            super().close()
            self.display(closed=True)


def relay_bars(file: Path) -> None:
    """From now on relay the bars of this process, if its parent has created the file."""
    RelayedBar.file = file if file.exists() else None


def draw_bars(file: Path, make_bar: Callable[..., tqdm], ended: Event) -> None:
    """Draw the bars in `file` until `ended` is set, then close those still open.

    make_bar: `progress_bar`. A bar closed before its total is drawn as failed.
    """
    bars, rest = {}, ""
    with file.open() as states:
        last = False
        while not last:
            last = ended.wait(INTERVAL)  # the process has ended: read the file once more
            *lines, rest = (rest + states.read()).split("\n")
            for line in lines:
                _draw(json.loads(line), bars, make_bar)
    for bar in bars.values():
        bar.close()


def _draw(state: dict, bars: dict[int, tqdm], make_bar: Callable[..., tqdm]) -> None:
    key, n = state["bar"], state["n"]
    if key not in bars:
        bars[key] = make_bar(**state["options"], initial=n)
    bar = bars[key]
    bar.set_postfix_str(state["postfix"], refresh=False)
    bar.update(n - bar.n)
    if state["closed"]:
        bars.pop(key).close()
