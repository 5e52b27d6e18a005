"""Files that a config names: literal paths and patterns."""

import pytest

from edge_lib.config import ConfigError
from edge_lib.sources.files import match_files


@pytest.fixture
def folder(tmp_path):
    """A folder with characters of patterns in its name, and files with such names in it."""
    folder = tmp_path / "data [v2] *::x"
    folder.mkdir()
    for name in ("a-0.txt", "a-1.txt", "b[v2].txt", "bv.txt", "c::d.txt", "e*.txt", "ef.txt"):
        (folder / name).write_text(name)
    (tmp_path / "data v *::x").mkdir()
    (tmp_path / "data v *::x" / "a-0.txt").write_text("the folder that [v2] matches as a pattern")
    return folder


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["a-0.txt"], ["a-0.txt"]),
        (["a-*.txt"], ["a-0.txt", "a-1.txt"]),
        (["a-1.txt", "a-*.txt"], ["a-1.txt", "a-0.txt"]),
        (["b[v2].txt"], ["b[v2].txt"]),
        (["b[vw].txt"], ["bv.txt"]),
        (["*[v2].txt"], ["bv.txt"]),
        (["b[v2].t*"], ["bv.txt"]),
        (["b[v2*"], ["b[v2].txt"]),
        (["c::d.txt"], ["c::d.txt"]),
        (["e*.txt"], ["e*.txt"]),
        (["**/e*"], ["e*.txt", "ef.txt"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_match_files_takes_existing_paths_literally(folder, patterns, names):
    files = match_files([str(folder / pattern) for pattern in patterns], "key")
    assert files == [folder / name for name in names]


def test_match_files_takes_a_bracket_literally_if_nothing_else_matches(folder):
    (folder / "bv.txt").unlink()
    assert match_files([f"{folder}/b[v2].t*"], "key") == [folder / "b[v2].txt"]


def test_match_files_names_the_key_of_patterns_without_files(folder):
    with pytest.raises(ConfigError, match=r"^data\.x: no file matches .*/z-\*\.txt$"):
        match_files([f"{folder}/a-*.txt", f"{folder}/z-*.txt"], "data.x")
    with pytest.raises(ConfigError, match=r"^data\.x: .* is a folder; name its files"):
        match_files([str(folder)], "data.x")
    with pytest.raises(ConfigError, match=r"^data\.x names no file$"):
        match_files([], "data.x")
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^data\.x: no file matches .*/emp\*$"):
        match_files([f"{folder}/emp*"], "data.x")
