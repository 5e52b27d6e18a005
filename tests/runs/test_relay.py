"""Bars of one process that another one draws."""

import json
import threading

import pytest

from edge_lib.runs import progress, relay
from edge_lib.runs.relay import RelayedBar, draw_bars, relay_bars


class DrawnBar:
    """Stands for the widget: keeps what was drawn."""

    def __init__(self, name, total, unit, initial):
        self.name, self.total, self.unit, self.initial = name, total, unit, initial
        self.n, self.postfix, self.closed = initial, "", 0

    def update(self, n):
        self.n += n

    def set_postfix_str(self, text, refresh):
        self.postfix = text

    def close(self):
        self.closed += 1


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """The file to which this process relays its bars."""
    file = tmp_path / "bars"
    file.touch()
    monkeypatch.setattr(relay, "INTERVAL", 0)
    monkeypatch.setattr(RelayedBar, "file", file)
    return file


@pytest.fixture
def draw(file):
    """draw() -> the bars drawn from the file when the work has ended."""

    def drawn():
        bars, ended = [], threading.Event()
        ended.set()
        draw_bars(file, lambda **options: bars.append(DrawnBar(**options)) or bars[-1], ended)
        return bars

    return drawn


def test_relayed_bar_draws_what_it_counts(draw, capsys):
    with progress.progress_bar('"train"\nnaïve', 120, " steps", 20) as bar:
        for _ in range(100):
            bar.set_postfix(loss=0.25, refresh=False)
            bar.update()
    (drawn,) = draw()
    assert (drawn.name, drawn.total, drawn.unit) == ('"train"\nnaïve', 120, " steps")
    assert (drawn.initial, drawn.n, drawn.postfix, drawn.closed) == (20, 120, "loss=0.25", 1)
    assert capsys.readouterr() == ("", "")


def test_work_of_unknown_length_is_relayed(draw):
    assert [*progress.track(iter("abc"), "read", None, " files")] == ["a", "b", "c"]
    (drawn,) = draw()
    assert (drawn.total, drawn.n, drawn.closed) == (None, 3, 1)


def test_relayed_bars_at_once_and_in_turn_stay_apart(draw):
    with progress.progress_bar("outer", 3) as outer:
        for number in range(3):
            with progress.progress_bar(f"inner {number}", 10) as inner:
                inner.update(number)
            outer.update()
    counts = {bar.name: (bar.n, bar.closed) for bar in draw()}
    expected = {"inner 0": (0, 1), "inner 1": (1, 1), "inner 2": (2, 1)}
    assert counts == {"outer": (3, 1), **expected}


def test_relayed_bar_of_failed_work_is_closed_before_its_total(draw):
    with pytest.raises(ZeroDivisionError), progress.progress_bar("train", 5) as bar:  # noqa: PT012
        bar.update(2)
        raise ZeroDivisionError
    (drawn,) = draw()
    assert (drawn.n, drawn.closed) == (2, 1)


def test_relayed_bar_of_a_killed_process_is_closed(draw, file):
    bar = progress.progress_bar("train", 5)
    bar.update(2)
    with file.open("a") as states:
        states.write('{"bar": 1, "opt')  # killed while it wrote
    (drawn,) = draw()
    bar.close()
    assert (drawn.n, drawn.closed) == (2, 1)


def test_relayed_bar_is_drawn_while_it_runs(file):
    bars, halfway, ended = [], threading.Event(), threading.Event()

    class Watched(DrawnBar):
        def update(self, n):
            super().update(n)
            if self.n == 5:
                halfway.set()

    def make_bar(**options):
        bars.append(Watched(**options))
        return bars[-1]

    thread = threading.Thread(target=draw_bars, args=(file, make_bar, ended))
    thread.start()
    with progress.progress_bar("train", 10) as bar:
        bar.update(5)
        assert halfway.wait(10)
        assert bars[0].closed == 0
        bar.update(5)
    ended.set()
    thread.join()
    assert [(bar.n, bar.closed) for bar in bars] == [(10, 1)]


def test_full_disk_stops_a_relayed_bar_but_not_the_work(file, monkeypatch):
    monkeypatch.setattr(RelayedBar, "file", file.parent)  # raises OSError when opened
    assert [*progress.track("abc", "read", 3, " files")] == ["a", "b", "c"]


def test_fast_updates_write_few_states(file, monkeypatch):
    monkeypatch.setattr(relay, "INTERVAL", 3600)
    assert len([*progress.track(range(10_000), "read", 10_000, " rows")]) == 10_000
    states = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(state["n"], state["closed"]) for state in states] == [(0, False), (10_000, True)]


def test_bars_are_relayed_only_to_a_parent_that_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 1e-9)
    relay_bars(tmp_path / "missing")
    assert not progress.draws_widgets()
    assert [*progress.track("ab", "read", 2, " files")] == ["a", "b"]
    assert capsys.readouterr().err.startswith("read:")
    assert not (tmp_path / "missing").exists()
