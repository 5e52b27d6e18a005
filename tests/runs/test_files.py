"""Files and folders that appear whole or not at all, JSON, and full disks."""

import errno
import shutil
from types import SimpleNamespace

import pytest

from edge_lib.config import ConfigError
from edge_lib.runs.files import full_disk_errors, read_json, whole_file, whole_folder


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (RuntimeError("I/O error: No space left on device (os 28)"), "No space left on device"),
    ],
    ids=["disk", "quota", "of a library"],
)
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_full_disk_is_one_line_with_the_path(tmp_path, whole, error, reason):
    path = tmp_path / "new"

    def fill():
        with whole(path):
            raise error

    with pytest.raises(ConfigError) as caught:
        fill()
    assert str(caught.value) == f"{path}: {reason}; make room, and the same command goes on"
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("free", "error", "kind"),
    [(1 << 30, ValueError, ValueError), (0, ValueError, ConfigError), (0, KeyError, ConfigError)],
    ids=["space", "none", "none, another"],
)
def test_unnamed_error_counts_as_a_full_disk_if_it_is_full(
    tmp_path, monkeypatch, free, error, kind
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(kind), full_disk_errors(tmp_path / "not/yet/made"):
        raise error("write failed")


def test_error_in_a_config_is_none_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(ConfigError, match=r"^a column$"), full_disk_errors(tmp_path / "a"):
        raise ConfigError("a column")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is damaged: Expecting value"),
        (b"{", "is damaged"),
        (b"\xff{}", "is damaged: "),
        (b'{"a": 1}x', "is damaged: Extra data"),
    ],
    ids=["empty", "cut", "no text", "more"],
)
def test_damaged_json_is_one_line_with_its_path(tmp_path, content, line):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'} {line}")
