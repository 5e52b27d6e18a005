"""Data sets of a fake Hub: files, configurations, errors, and Open-Orca."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_server import respond, serve_files, status
from hub_server import COMMIT, add_dataset, use_hub
from huggingface_hub import constants

from edge_lib import download, load_config, load_table
from edge_lib.config import ROOT, ConfigError, DataConfig
from edge_lib.sources.download.open_orca import GPT4, GPT35, REPO

API = "/api/datasets/org/birds"
CARD = {
    "license": "cc0-1.0",
    "configs": [
        {"config_name": "small", "data_files": [{"split": "train", "path": "small/train-*"}]},
        {"config_name": "large", "data_files": "large/*.parquet"},
    ],
}
README = b"""---
configs:
- config_name: small
  data_files:
  - {split: train, path: small/train-*}
- config_name: large
  data_files: large/*.parquet
---
"""


def parquet(rows, row_group_size=None):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=row_group_size)
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch, encode_image):
    rows = [
        {"image": {"bytes": encode_image(n), "path": None}, "caption": f"{n}"} for n in range(1, 5)
    ]
    files = {"README.md": README, "birds.py": b"raise SystemExit", ".gitattributes": b""}
    files |= {"small/train-0.parquet": parquet(rows[:1]), "large/a.parquet": parquet(rows)}
    with serve_files() as server:
        add_dataset(server, "org/birds", files, CARD)
        use_hub(monkeypatch, server)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
        yield server


def read(folder, config, cache):
    hub = {"name": str(folder), "config": config, "val": None, "test": None}
    return load_table(DataConfig(source="hub", hub=hub, cache_dir=cache), "train")


def test_configuration_is_read_by_its_source(server, tmp_path):
    summary = download("hub", tmp_path / "a", repo="org/birds", config="small")
    assert summary["source"] == {"repo": "org/birds", "revision": COMMIT}
    assert summary["licence"] == "cc0-1.0"
    table = read(tmp_path / "a/files", "small", tmp_path / "cache")
    assert table.column("texts") == [["1"]]
    assert not (tmp_path / "a/files/large").exists()


def test_whole_data_set_has_no_scripts(server, tmp_path):
    download("hub", tmp_path / "a", repo="org/birds")
    files = {path.name for path in (tmp_path / "a/files").rglob("*") if path.is_file()}
    assert {"README.md", "train-0.parquet", "a.parquet"} <= files
    assert not {"birds.py", ".gitattributes"} & files
    assert len(read(tmp_path / "a/files", "large", tmp_path / "cache")) == 4


def test_wrong_configuration_lists_those_there_are(server, tmp_path):
    with pytest.raises(ConfigError, match=r"'smal'; did you mean 'small'\? allowed: small, large"):
        download("hub", tmp_path, repo="org/birds", config="smal")
    download("hub", tmp_path, repo="org/birds", config="small")  # nothing was written


def test_rows_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"train\[:1000\]"):
        download("hub", tmp_path, repo="org/birds", rows=3)


@pytest.mark.parametrize("repo", ["org/a/b", "https://huggingface.co/datasets/org/a", ""])
def test_other_names_than_a_repository_are_refused(tmp_path, repo):
    with pytest.raises(ConfigError, match="hub: repo: "):
        download("hub", tmp_path / "a", repo=repo)


def test_file_that_the_hub_has_no_more_is_told(server, tmp_path):
    add_dataset(server, REPO, {GPT4: b"x"})
    with pytest.raises(ConfigError, match=rf"has no {GPT35} any more"):
        download("open-orca", tmp_path)


def test_configuration_without_named_files_is_all_files(server, tmp_path):
    card = {"configs": [{"config_name": "default"}]}
    add_dataset(server, "org/plain", {"README.md": b"", "train.csv": b"caption\na\n"}, card)
    download("hub", tmp_path, repo="org/plain", config="default")
    assert (tmp_path / "files/train.csv").exists()


def test_data_set_without_data_is_refused(server, tmp_path):
    add_dataset(server, "org/empty", {"README.md": b"", "load.py": b""})
    with pytest.raises(ConfigError, match="no data files"):
        download("hub", tmp_path, repo="org/empty")


def fails(server, tmp_path, message, **options):
    with pytest.raises(ConfigError, match=message):
        download("hub", tmp_path, **{"repo": "org/birds", **options})


def test_unreachable_hub_is_told_with_its_address(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    fails(server, tmp_path, r"^org/birds: cannot reach http://127\.0\.0\.1:9 \(.*HF_ENDPOINT$")


def test_missing_data_set_is_told(server, tmp_path):
    server.files["/api/datasets/org/bird"] = b""
    server.faults["/api/datasets/org/bird"] = [status(404, X_Error_Code="RepoNotFound")]
    fails(server, tmp_path, "org/bird: there is no such data set", repo="org/bird")


def test_missing_revision_is_told(server, tmp_path):
    path = f"{API}/revision/v9"
    server.files[path] = b""
    server.faults[path] = [status(404, X_Error_Code="RevisionNotFound")]
    fails(server, tmp_path, "no such revision", revision="v9")


def test_gated_data_set_names_its_page(server, tmp_path):
    path = f"/datasets/org/birds/resolve/{COMMIT}/large/a.parquet"
    server.faults[path] = [status(403, X_Error_Code="GatedRepo")] * 9
    fails(server, tmp_path, "accept its conditions on http://.*/datasets/org/birds")


def test_rate_limit_is_told_as_what_it_is(server, tmp_path):
    server.faults[API] = [status(429, Retry_After="77")] * 20
    fails(server, tmp_path, r"rate limit is reached \(HTTP 429\), try again in 77 s")


@pytest.mark.parametrize(
    "path",
    [f"{API}/tree/{COMMIT}", f"/datasets/org/birds/resolve/{COMMIT}/large/a.parquet"],
    ids=["list", "file"],
)
def test_rate_limit_on_the_way_is_no_missing_file(server, tmp_path, path):
    server.faults[path] = [status(429)] * 40
    fails(server, tmp_path, "rate limit is reached")
    server.faults.clear()
    download("hub", tmp_path, repo="org/birds")
    assert (tmp_path / "files/large/a.parquet").exists()


def test_wrong_token_is_told(server, tmp_path):
    problem = "Invalid credentials in Authorization header"
    server.faults[API] = [status(401, X_Error_Message=problem)]
    fails(server, tmp_path, "token is not valid")


def test_hub_that_is_down_is_told(server, tmp_path):
    server.faults[API] = [status(503)] * 20
    fails(server, tmp_path, "HTTP 503 from http://127")


def test_offline_variable_is_told(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails(server, tmp_path, "HF_HUB_OFFLINE is set")


def test_resumed_download_keeps_its_commit(server, tmp_path):
    path = f"/datasets/org/birds/resolve/{COMMIT}/large/a.parquet"
    server.faults[path] = [status(404, X_Error_Code="EntryNotFound")]
    fails(server, tmp_path, "org/birds: ")
    server.files[API] = server.files[f"{API}/revision/main"] = b"{}"  # the branch has moved on
    summary = download("hub", tmp_path, repo="org/birds")
    assert summary["source"] == {"repo": "org/birds", "revision": COMMIT}


def test_truncated_file_is_not_taken(server, tmp_path):
    path = f"/datasets/org/birds/resolve/{COMMIT}/large/a.parquet"
    whole = server.files[path]
    server.files[path] = whole[:100]
    fails(server, tmp_path, "large/a.parquet did not arrive")
    server.files[path] = whole
    download("hub", tmp_path, repo="org/birds")
    assert (tmp_path / "files/large/a.parquet").read_bytes() == whole


def test_files_that_are_there_are_not_fetched_again(server, tmp_path):
    download("hub", tmp_path, repo="org/birds")
    (tmp_path / "download.json").unlink()
    (tmp_path / "files/large/a.parquet").unlink()
    server.requests.clear()
    download("hub", tmp_path, repo="org/birds")
    fetched = {path for path, _ in server.requests if "/resolve/" in path}
    assert fetched == {f"/datasets/org/birds/resolve/{COMMIT}/large/a.parquet"}


@pytest.fixture
def orca(server):
    """Open-Orca's two files, of 40 and 60 rows in groups of 10."""

    def rows(start, stop):
        return [
            {"id": f"r{n}", "system_prompt": "", "question": f"q{n}?", "response": f"a{n}"}
            for n in range(start, stop)
        ]

    add_dataset(server, REPO, {GPT4: parquet(rows(0, 40), 10), GPT35: parquet(rows(40, 100), 10)})
    return server


@pytest.fixture
def instructions(monkeypatch, tmp_path):
    """The instructions of params/full/vision_text_qwen.yaml, with its data in tmp_path/data."""
    monkeypatch.setattr("edge_lib.config.base.ROOT", tmp_path)
    path = ROOT / "params/full/vision_text_qwen.yaml"
    overrides = "data.conversations.source=instructions data.conversations.split=null"
    return load_config(path, f"{overrides} data.cache_dir=cache").data


def test_open_orca_is_what_params_full_names(orca, tmp_path, instructions):
    summary = download("open-orca", tmp_path / "data/open-orca")
    assert summary["rows"] == {"train": 100}
    assert summary["source"]["revision"] == COMMIT
    assert len(load_table(instructions, "chat-train")) == 100
    assert not (tmp_path / "data/open-orca/whole").exists()


def test_open_orca_of_gpt4_is_one_file(orca, tmp_path):
    assert download("open-orca", tmp_path, gpt4=True)["rows"] == {"train": 40}


def test_open_orca_rows_are_a_random_part(orca, tmp_path, instructions):
    parts = []
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        download("open-orca", tmp_path / out, rows=20, seed=seed)
        parts.append(pq.read_table(tmp_path / out / "train-00000.parquet")["id"].to_pylist())
    assert parts[0] == parts[1] != parts[2]
    assert len(set(parts[0])) == 20
    assert parts[0] == sorted(parts[0], key=lambda name: int(name[1:]))
    assert {int(name[1:]) >= 40 for name in parts[0]} == {True, False}
    assert not (tmp_path / "a/whole").exists()


def test_open_orca_goes_on_after_its_first_file(orca, tmp_path):
    path = f"/datasets/{REPO}/resolve/{COMMIT}/{GPT35}"
    orca.faults[path] = [respond(404, b"", X_Error_Code="EntryNotFound")]
    with pytest.raises(ConfigError):
        download("open-orca", tmp_path)
    assert not json.loads((tmp_path / "download.json").read_text())["complete"]
    assert download("open-orca", tmp_path)["rows"] == {"train": 100}
