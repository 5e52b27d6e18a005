"""The progress of work, as lines of a log."""

import pytest

from edge_lib.runs import progress


@pytest.fixture(autouse=True)
def log(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)


def test_short_work_shows_nothing(capsys):
    with progress.progress_bar("quick", 3, " files") as bar:
        for _ in range(3):
            bar.update(1)
    assert capsys.readouterr().err == ""


def test_tracked_items_are_counted(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 1e-9)
    assert [*progress.track(iter("abc"), "read", None, " files")] == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines()[-1].startswith("read: 3.00 files")


def test_longer_work_shows_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 1e-9)
    with progress.progress_bar("check", 2, " files") as bar:
        for _ in range(2):
            bar.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("check:") for line in lines)
    assert "1/2" in lines[0]
    assert "2/2" in lines[-1]
