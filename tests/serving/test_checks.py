"""Checks before a server starts."""

import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_lib.__main__ import main
from edge_lib.config import ConfigError
from edge_lib.serving.checks import check_start
from edge_lib.serving.settings import ServeSettings


@pytest.mark.parametrize(
    "run", ["nope", "runs/nope", "./runs/nope", "/nope/at/all", "a/b/c", "~/nope"]
)
def test_missing_folder_is_refused_at_once(run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=f"^serve: no folder {run}$"):
        check_start(run, ServeSettings(port=0))


@pytest.mark.parametrize("run", ["tiny-align", "org/name", "runs", "runs/there", "./runs/there"])
def test_existing_folder_and_name_are_taken(run, tmp_path, monkeypatch):
    (folder := tmp_path / "runs/there/checkpoints/best").mkdir(parents=True)
    (folder / "aligner.json").touch()
    monkeypatch.chdir(tmp_path)
    check_start(run, ServeSettings(port=0))


def test_folder_without_a_model_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=f"^{tmp_path}: no saved model$"):
        check_start(str(tmp_path), ServeSettings(port=0))
    (file := tmp_path / "file.json").touch()
    with pytest.raises(ConfigError, match=r"file\.json: no saved model$"):
        check_start(str(file), ServeSettings(port=0))
    (tmp_path / "onnx").mkdir()
    check_start(str(tmp_path), ServeSettings(port=0))


def test_missing_index_is_refused_at_once(tmp_path):
    settings = ServeSettings(port=0, index=str(tmp_path / "nope.parquet"))
    with pytest.raises(ConfigError, match=r"^index: no file /.*nope\.parquet$"):
        check_start("tiny-align", settings)


def test_other_file_as_index_is_refused_at_once(tmp_path):
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "table.parquet")
    settings = ServeSettings(port=0, index=str(tmp_path / "table.parquet"))
    with pytest.raises(ConfigError, match=r"table\.parquet is no file of `edge-glass embed`"):
        check_start("tiny-align", settings)


def test_busy_port_is_one_line_that_names_the_flag(capsys):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert main(["serve", "tiny-align", "--port", str(port)]) == 2
    expected = f"serve: --host 127.0.0.1 --port {port}: Address already in use\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_free_port_is_taken(host):
    check_start("tiny-align", ServeSettings(host=host, port=0))


def test_host_that_does_not_resolve_is_refused():
    with pytest.raises(ConfigError, match=r"^serve: --host no\.invalid --port 0: "):
        check_start("tiny-align", ServeSettings(host="no.invalid", port=0))
