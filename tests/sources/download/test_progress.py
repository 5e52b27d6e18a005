"""Progress of URL downloads."""

import sys
from collections import Counter

import pytest

from edge_lib.sources.download import progress
from edge_lib.sources.download.progress import url_progress


@pytest.fixture
def clock(monkeypatch):
    """A list that holds the time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_progress_in_a_log_is_a_line_every_half_minute(clock, capsys):
    with url_progress(1000, Counter(rows=200, alive=100, bytes=3_000_000)) as bar:
        for seconds in (10, 29, 31, 59, 61):
            clock[0] = 100.0 + seconds
            bar.add(Counter(rows=100, alive=80, bytes=1_000_000))
        clock[0] = 170.0
    assert capsys.readouterr().out.splitlines() == [
        "500 of 1,000 rows, 10 rows/s, 68% alive, 6.0 MB",
        "700 of 1,000 rows, 8 rows/s, 71% alive, 8.0 MB",
        "700 of 1,000 rows, 7 rows/s, 71% alive, 8.0 MB",
    ]


def test_progress_of_nothing_is_a_line(clock, capsys):
    with url_progress(0, Counter()):
        pass
    assert capsys.readouterr().out == "0 of 0 rows, 0 rows/s, 0% alive, 0.0 MB\n"


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with url_progress(1000, Counter(rows=250, alive=250)) as bar:
        bar.add(Counter(rows=250, alive=0, bytes=2_500_000_000))
    shown = capsys.readouterr().err
    assert "50%" in shown
    assert "500/1.00k" in shown
    assert "50% alive, 2.50 GB" in shown
