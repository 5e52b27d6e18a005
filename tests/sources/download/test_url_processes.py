"""The progress that processes of a URL download report."""

import sys
from collections import Counter

import pytest

from edge_lib.runs import progress
from edge_lib.sources.download.url_processes import url_progress


@pytest.fixture(autouse=True)
def _without_delay(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)
    monkeypatch.setattr(progress, "DELAY", 1e-9)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_counts_rows_of_this_and_earlier_calls(monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with url_progress(1000, Counter(rows=200, alive=100, bytes=3_000_000)) as bar:
        bar.add(Counter(rows=250, alive=240, bytes=1_000_000))
        bar.add(Counter(rows=50, alive=0, bytes=2_500_000_000))
    printed = capsys.readouterr()
    assert "500/1000" in printed.err
    assert "68% alive, 2.50 GB" in printed.err
    assert printed.out == ""  # which is for the summary


def test_progress_in_a_log_is_lines(capsys):
    with url_progress(100, Counter()) as bar:
        bar.add(Counter(rows=50, alive=50))
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("fetch:") for line in lines)
    assert "100% alive, 0.0 MB" in lines[-1]
