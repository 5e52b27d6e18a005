"""Downloads of a URL list: what is written, options, resuming, refusals."""

import hashlib
import json

import pytest
from url_runs import fetch_urls, read_rows, statuses
from url_server import picture

from edge_lib import load_config, load_table
from edge_lib.sources.download.statuses import STATUSES

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
