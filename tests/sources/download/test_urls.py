"""Downloads of a URL list: what is written, options, resuming, refusals."""

import hashlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_server import serve_files
from hub_server import COMMIT, add_dataset, use_hub
from PIL import Image
from url_runs import fetch_urls, read_rows, statuses
from url_server import picture

from edge_lib import download, load_config, load_table
from edge_lib.config import ConfigError
from edge_lib.sources.download import make_download
from edge_lib.sources.download.statuses import STATUSES
from edge_lib.sources.download.url_sets import PIXMO_CAP

KINDS = "ok", "gone", "half", "text", "same"


@pytest.fixture
def urls(server):
    """25 URLs of five kinds."""
    return [server.url(KINDS[n % 5], n) for n in range(25)]


def test_urls_writes_pictures_in_the_order_of_the_list(tmp_path, server, urls):
    fetch_urls(tmp_path, urls)
    rows = read_rows(tmp_path, "train")
    assert [row["row"] for row in rows] == [0, 4, 5, 9, 10, 14, 15, 19, 20, 24]
    assert [row["image"] for row in rows[::2]] == [picture(1 + n) for n in range(0, 25, 5)]
    assert {row["image"] for row in rows[1::2]} == {picture(0)}
    row = rows[2]
    assert row | {"image": None} == {
        "image": None,
        "caption": "a 5",
        "url": urls[5],
        "sha256": hashlib.sha256(picture(6)).hexdigest(),
        "width": 8,
        "height": 6,
        "row": 5,
    }


def test_urls_writes_the_status_of_every_row(tmp_path, urls):
    fetch_urls(tmp_path, urls)
    rows = read_rows(tmp_path, "status")
    assert [row["url"] for row in rows] == urls
    assert [row["row"] for row in rows] == [*range(25)]
    expected = ["ok", "gone", "corrupt_image", "not_an_image", "ok"] * 5
    assert statuses(tmp_path) == expected
    assert STATUSES.keys() >= {*expected}
    assert rows[0]["bytes"] == len(picture(1))
    assert rows[0]["error"] is None
    assert rows[1] | {"error": None, "url": None} == {
        "row": 1,
        "url": None,
        "status": "gone",
        "error": None,
        "bytes": None,
        "sha256": None,
        "width": None,
        "height": None,
    }
    assert "404" in rows[1]["error"]


def test_urls_counts_what_became_of_rows(tmp_path, urls):
    summary = fetch_urls(tmp_path, urls)
    assert summary["rows"] == {"train": 10}
    assert (summary["alive"], summary["dead"]) == (10, 15)
    assert summary["skipped"] == {"gone": 5, "corrupt_image": 5, "not_an_image": 5}
    assert summary["bytes"] == 5 * len(picture(0)) + sum(
        len(picture(1 + n)) for n in range(0, 25, 5)
    )
    assert json.loads((tmp_path / "out/download.json").read_text()) == summary
    assert not (tmp_path / "out/partial").exists()


def test_urls_are_read_as_a_table(tmp_path, urls):
    fetch_urls(tmp_path, urls)
    files = f"{{train: [{tmp_path}/out/train-*.parquet], image_column: image}}"
    overrides = f"data.source=parquet data.parquet={files} data.cache_dir={tmp_path}/cache"
    table = load_table(load_config("params/tiny/align.yaml", overrides).data, "train")
    captions = {tuple(texts) for texts in table.column("texts")}
    assert captions == {
        *((f"a {n}",) for n in range(0, 25, 5)),
        tuple(f"a {n}" for n in range(4, 25, 5)),
    }
    assert table.images([0])[0].size == (8, 6)


def test_urls_without_a_picture_are_an_error(tmp_path, server):
    urls = [server.url(kind, n) for n, kind in enumerate(["gone", "gone", "flaky"])]
    message = r"no URL gives a picture \(gone 2, server_error 1\); see .*status; .*--retry failed"
    for _ in range(2):
        with pytest.raises(ConfigError, match=message):
            fetch_urls(tmp_path, urls)
    server.broken = False
    assert fetch_urls(tmp_path, urls, retry="failed")["alive"] == 1


def test_urls_in_several_rows_are_fetched_once(tmp_path, server):
    urls = [server.url("ok", n) for n in (1, 2, 1, 1, 3, 2)]
    urls[3] = f" {urls[3]}\n"
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps({"url": u, "caption": None}) + "\n" for u in urls))
    summary = download("urls", tmp_path / "out", list=path, allow_private=True)
    assert server.served == {server.url("ok", n): 1 for n in (1, 2, 3)}
    rows = read_rows(tmp_path, "train")
    assert [row["image"] for row in rows] == [picture(1 + n) for n in (1, 2, 1, 1, 3, 2)]
    assert [row["caption"] for row in rows] == [None] * 6
    assert summary["bytes"] == sum(len(row["image"]) for row in rows)
    assert summary["repeated"]["pictures"] == 0


def test_urls_that_are_none_have_a_status(tmp_path, server):
    urls = [server.url("ok", 1), "", "  ", "file:///etc/passwd", "no url", "http://", None]
    rows = [{"url": url, "caption": "a"} for url in urls]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    download("urls", tmp_path / "out", list=tmp_path / "list.parquet", allow_private=True)
    expected = ["ok", "bad_url", "bad_url", "not_http", "bad_url", "bad_url", "bad_url"]
    assert statuses(tmp_path) == expected
    urls[2] = ""
    assert [row["url"] for row in read_rows(tmp_path, "status")] == urls


def test_urls_refuse_private_addresses_by_default(tmp_path, server):
    urls = [server.url("ok", n) for n in range(3)]
    message = r"no URL gives a picture \(private_address 3\); .*--allow-private"
    with pytest.raises(ConfigError, match=message):
        fetch_urls(tmp_path, urls, allow_private=False)
    assert not server.served
    assert fetch_urls(tmp_path, urls, allow_private=True)["alive"] == 3


def test_urls_fetch_what_an_option_now_allows(tmp_path, server):
    """Of a complete download, and once."""
    urls = [server.url("ok", 1), server.url("noai", 2), server.url("gone", 3)]
    assert fetch_urls(tmp_path, urls)["skipped"] == {"noai": 1, "gone": 1}
    server.served.clear()
    for _ in range(2):
        assert fetch_urls(tmp_path, urls, ignore_noai=True)["skipped"] == {"gone": 1}
    assert server.served == {urls[1]: 1}
    assert [row["image"] for row in read_rows(tmp_path, "train")] == [picture(2), picture(3)]


def test_urls_without_a_picture_may_follow_other_options(tmp_path, server):
    urls = [server.url("gone", n) for n in range(12)]
    with pytest.raises(ConfigError, match=r"gone 12"):
        fetch_urls(tmp_path, urls)
    fetch_urls(tmp_path, [server.url("ok", 1)], max_side=4)
    assert statuses(tmp_path) == ["ok"]


@pytest.mark.parametrize("name", ["cc3m", "laion"])
def test_urls_without_their_list_say_where_it_is(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"^{name}: list: name the list; [^(]*$"):
        download(name, tmp_path / "out")


def test_urls_say_once_that_a_proxy_is_ignored(tmp_path, server, caplog, monkeypatch):
    for name in ("http_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch_urls(tmp_path, [server.url("ok", n) for n in range(12)])["alive"] == 12
    lines = [line for line in caplog.messages if "PROXY" in line]
    assert lines == [
        "HTTP_PROXY, HTTPS_PROXY is ignored: URLs of a list are fetched without a proxy"
    ]


def test_urls_find_pictures_that_several_urls_give(tmp_path, server, caplog):
    urls = [server.url("same" if n % 2 else "ok", n) for n in range(40)]
    repeated = fetch_urls(tmp_path, [*urls, *urls[:20]])["repeated"]
    sha256 = hashlib.sha256(picture(0)).hexdigest()
    assert repeated == {
        "pictures": 1,
        "urls": 20,
        "most_repeated": [{"urls": 20, "url": urls[1], "sha256": sha256}],
    }
    assert f"20 URLs give one and the same picture, such as {urls[1]}" in caplog.text


def test_urls_take_a_random_part(tmp_path, server):
    urls = [server.url("ok", n) for n in range(100)]
    parts = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / folder).mkdir()
        fetch_urls(tmp_path / folder, urls, rows=30, seed=seed)
        rows = read_rows(tmp_path / folder, "train")
        assert [row["url"] for row in rows] == [urls[row["row"]] for row in rows]
        parts.append([row["row"] for row in rows])
    assert parts[0] == parts[1] == sorted({*parts[0]})
    assert [len(part) for part in parts] == [30] * 3
    assert parts[2] != parts[0]


def test_urls_shrink_pictures(tmp_path, server):
    fetch_urls(tmp_path, [server.url("ok", n) for n in range(3)], max_side=4)
    row = read_rows(tmp_path, "train")[0]
    assert (row["width"], row["height"]) == (4, 3)
    image = Image.open(io.BytesIO(row["image"]))
    assert (image.format, image.size) == ("JPEG", (4, 3))
    assert row["sha256"] == hashlib.sha256(row["image"]).hexdigest()


@pytest.mark.parametrize(
    ("options", "processes"),
    [
        ({"processes": 3, "connections": 10, "per_host": 7}, 3),
        ({"processes": 16, "connections": 64, "per_host": 5}, 5),
        ({"processes": 4, "connections": 2}, 2),
        ({"processes": 4, "connections": 8}, 4),
    ],
    ids=["uneven", "per host", "connections", "shards"],
)
def test_urls_divide_connections_between_processes(tmp_path, options, processes):
    job = make_download("urls", {"out": tmp_path, "list": tmp_path / "a.csv", **options})
    jobs = job.jobs(10)
    assert len(jobs) == processes
    shares = [(part.connections, part.per_host) for part in jobs]
    assert [*map(sum, zip(*shares, strict=True))] == [job.connections, job.per_host]
    assert min(map(min, shares)) > 0
    assert len(job.jobs(2)) == 2


def test_urls_of_another_column_may_be_named_next(tmp_path, urls):
    with pytest.raises(ConfigError, match=r"no column 'URL' \(did you mean 'url'\?\)"):
        fetch_urls(tmp_path, urls, url_column="URL")
    assert fetch_urls(tmp_path, urls)["alive"] == 10


def test_pixmo_takes_its_list_from_the_hub_once(tmp_path, server, monkeypatch):
    rows = [
        {"image_url": server.url("ok", n), "caption": f"c {n}", "transcripts": [f"t {n}", "u"]}
        for n in range(5)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    files = {"README.md": b"", "data/train-0.parquet": (tmp_path / "list.parquet").read_bytes()}
    with serve_files() as hub:
        use_hub(monkeypatch, hub)
        add_dataset(hub, PIXMO_CAP, files)
        for _ in range(2):
            summary = download("pixmo-cap", tmp_path / "out", allow_private=True)
        requests = [path for path, _ in hub.requests]
    assert requests.count(f"/api/datasets/{PIXMO_CAP}") == 1
    assert summary["source"] == {"repo": PIXMO_CAP, "revision": COMMIT}
    train = read_rows(tmp_path, "train")
    assert [row["transcripts"] for row in train] == [row["transcripts"] for row in rows]
    assert [row["url"] for row in train] == [row["image_url"] for row in rows]
