"""What all downloads share: options, resuming, refusals, command line and config section."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest
from filelock import FileLock

from edge_lib import download, load_config
from edge_lib.__main__ import main
from edge_lib.config import ROOT, ConfigError
from edge_lib.config.registry import DOWNLOADS
from edge_lib.sources.download import download_missing
from edge_lib.sources.download.base import Download, LocalPath
from edge_lib.sources.download.summary_lines import summary_lines


class NumbersDownload(Download):
    """Numbers, for tests."""

    PROCESS = Download.PROCESS | {"workers"}

    file: LocalPath | None = None
    workers: int = 1
    fail: str | None = None
    kind: Literal["a", "b"] | None = None

    def run(self):
        if self.fail == "disk":
            raise OSError(28, "No space left on device", "part")
        if self.fail:
            (self.out / "part").write_text("")
        if self.fail is not None:
            raise ConfigError("failed")
        with (self.out / "runs").open("a") as runs:
            runs.write(f"{self.workers} {self.file}\n")
        return {"numbers": self.rows or 10}


@pytest.fixture(autouse=True)
def numbers(monkeypatch):
    monkeypatch.setitem(DOWNLOADS, "numbers", f"{__name__}:NumbersDownload")
    monkeypatch.setattr("edge_lib.sources.download.load_registered", lambda _: NumbersDownload)


def runs_of(folder):
    return (folder / "runs").read_text().splitlines()


def test_download_writes_its_summary(tmp_path):
    summary = download("numbers", tmp_path / "a", rows=3)
    assert summary == json.loads((tmp_path / "a/download.json").read_text())
    assert summary == {
        "settings": {"name": "numbers", "rows": 3},
        "complete": True,
        "numbers": 3,
    }


def test_download_is_not_repeated_with_another_number_of_workers(tmp_path):
    assert download("numbers", tmp_path) == download("numbers", tmp_path, workers=2)
    assert runs_of(tmp_path) == ["1 None"]


def test_download_that_is_complete_takes_no_lock(tmp_path):
    """Its folder may be read-only, or be checked by another process."""
    summary = download("numbers", tmp_path)
    with FileLock(tmp_path / ".lock"):
        assert download("numbers", tmp_path) == summary


def test_download_refuses_a_folder_of_another(tmp_path):
    download("numbers", tmp_path)
    with pytest.raises(ConfigError, match=r": rows is the default there, 3 here; choose"):
        download("numbers", tmp_path, rows=3)
    assert download("numbers", tmp_path)["complete"]


def test_download_of_another_name_tells_the_names_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(DOWNLOADS, "letters", DOWNLOADS["numbers"])
    download("numbers", tmp_path, rows=2)
    with pytest.raises(ConfigError, match=r": name is numbers there, letters here; choose"):
        download("letters", tmp_path, rows=3)


def test_download_of_killed_run_that_wrote_nothing_takes_other_options(tmp_path):
    settings = {"name": "numbers", "rows": 2}
    (tmp_path / "download.json").write_text(json.dumps({"settings": settings, "complete": False}))
    (tmp_path / ".commit").write_text("old")
    assert download("numbers", tmp_path, rows=3)["settings"]["rows"] == 3
    assert not (tmp_path / ".commit").exists()


def test_download_leaves_other_files_of_a_folder(tmp_path):
    (tmp_path / "list").mkdir()
    (tmp_path / "list/mine").write_text("")
    with pytest.raises(ConfigError, match="failed"):
        download("numbers", tmp_path, fail="")
    assert (tmp_path / "list/mine").exists()


def test_download_goes_on_after_a_failure(tmp_path):
    with pytest.raises(ConfigError, match="failed"):
        download("numbers", tmp_path, fail="late")
    assert not json.loads((tmp_path / "download.json").read_text())["complete"]
    with pytest.raises(ConfigError, match="another download"):
        download("numbers", tmp_path)


def test_download_takes_other_options_where_nothing_was_written(tmp_path):
    with pytest.raises(ConfigError, match="failed"):
        download("numbers", tmp_path, fail="")
    assert download("numbers", tmp_path)["complete"]


def test_download_on_a_full_disk_is_a_line(tmp_path):
    message = r"^numbers: \[Errno 28\] No space left on device: 'part'$"
    with pytest.raises(ConfigError, match=message):
        download("numbers", tmp_path, fail="disk")


def test_download_into_a_file_is_a_line(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(ConfigError, match=r"numbers: .*a/b"):
        download("numbers", tmp_path / "a/b")


def test_download_refuses_a_folder_that_is_written(tmp_path):
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(ConfigError, match=r"/\.lock is held by another process; start"),
    ):
        download("numbers", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row": 3}, "numbers: unknown option 'row'; did you mean 'rows'"),
        ({"rows": 0}, r"numbers: rows: .*greater than 0 \(got 0\)"),
        ({"workers": "many"}, "numbers: workers: .*integer"),
    ],
    ids=["name", "range", "type"],
)
def test_download_refuses_wrong_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        download("numbers", tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_download_suggests_a_name(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'numbers'"):
        download("number", tmp_path)


def test_command_takes_options_as_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["download", "numbers", "--out", "b", "--file", "x.tar", "--workers", "3"]) == 0
    assert runs_of(tmp_path / "b") == [f"3 {tmp_path}/x.tar"]
    assert "numbers: 10" in capsys.readouterr().out


def test_command_takes_no_abbreviations(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["download", "numbers", "--out", str(tmp_path / "a"), "--row", "5"])
    assert (
        "edge-glass download numbers: error: unrecognized arguments: --row 5"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "a").exists()


def test_command_prints_lines_without_python(tmp_path, monkeypatch, capsys):
    counts = {"rows": {"train": 62_700, "val": 79}, "licence": None, "skipped": {}}
    monkeypatch.setattr(NumbersDownload, "run", lambda self: counts)
    main(["download", "numbers", "--out", str(tmp_path), "--rows", "3"])
    assert capsys.readouterr().out == "rows: train 62,700, val 79\n"


def test_summary_lines_flatten_what_is_nested():
    repeated = {"pictures": 1, "most_repeated": [{"urls": 20, "url": "http://a"}]}
    voices = {"things": {"train": 2}, "voices": {"train": 3}}
    assert summary_lines({"rows": voices, "repeated": repeated, "seconds": 1.5}) == [
        "rows, things: train 2",
        "rows, voices: train 3",
        "repeated: pictures 1",
        "repeated, most_repeated: urls 20, url http://a",
        "seconds: 1.5",
    ]


def test_command_reports_a_wrong_name(tmp_path, capsys):
    assert main(["download", "nummbers", "--out", str(tmp_path)]) == 2
    assert "did you mean 'numbers'" in capsys.readouterr().err


def test_command_describes_options(capsys):
    with pytest.raises(SystemExit):
        main(["download", "numbers", "--help"])
    printed = capsys.readouterr().out
    assert "usage: edge-glass download numbers --out DIR [options]\n" in printed
    assert "Numbers, for tests." in printed
    for flag in ("--workers N", "--file PATH", "--fail TEXT", "--kind a|b"):
        assert flag in printed


def test_experiment_downloads_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = f"{{name: numbers, out: {tmp_path}/c, rows: 4, options: {{file: data/x.tar}}}}"
    config = load_config("params/tiny/align.yaml", f"data.download={section}")
    assert download_missing(config.data)["numbers"] == 4
    download_missing(config.data)
    assert runs_of(tmp_path / "c") == [f"1 {ROOT}/data/x.tar"]


def test_experiment_waits_for_another_that_downloads(tmp_path):
    section = f"{{name: numbers, out: {tmp_path}, rows: 4, options: {{file: data/x.tar}}}}"
    config = load_config("params/tiny/align.yaml", f"data.download={section}")
    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / ".lock"):
            waiting = pool.submit(download_missing, config.data)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
        assert waiting.result(timeout=60)["numbers"] == 4


def test_experiment_without_download_needs_none():
    assert download_missing(load_config("params/tiny/align.yaml").data) is None
