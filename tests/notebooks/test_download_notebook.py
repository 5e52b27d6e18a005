"""A list of URLs in PixMo-Cap's shape is downloaded, then aligned by 01_align."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from notebook_outputs import printed_text
from notebook_runs import read_metrics, run_notebook

from edge_lib.__main__ import main
from edge_lib.config import ScenesConfig, load_config
from edge_lib.features.extract import write_features
from edge_lib.sources import load_table
from edge_lib.sources.scenes.generate import twin_groups
from edge_lib.sources.scenes.rows import scene_row

ROWS = 150
GONE, HTML, TRUNCATED = range(4, ROWS, 10), (21, 77), (30, 31, 92)
ALIVE = ROWS - len(GONE) - len(HTML) - len(TRUNCATED)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory, rows):
    """A server of the pictures: some are not there, some are none, some end too early."""
    folder = tmp_path_factory.mktemp("site")
    for number, row in enumerate(rows):
        content = row["image"]
        if number in HTML:
            content = b"<!doctype html><title>Photo no longer available</title>"
        elif number in TRUNCATED:
            content = content[: len(content) // 2]
        if number not in GONE:
            (folder / f"{number}.png").write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def rows():
    scenes = [scene for group in twin_groups("train", ROWS, 1, seed=3) for scene in group]
    scenes = scenes[:ROWS]
    return [scene_row(ScenesConfig(), scene, "train", i, 0) for i, scene in enumerate(scenes)]


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory, address, rows):
    folder = tmp_path_factory.mktemp("pixmo")
    captions = [row["texts"][0] for row in rows]
    columns = {
        "image_url": [f"{address}/{number}.png" for number in range(ROWS)],
        "caption": captions,
        "transcripts": [[caption, caption.upper()] for caption in captions],
    }
    pq.write_table(pa.table(columns), folder / "list.parquet")
    flags = ["--list", str(folder / "list.parquet"), "--out", str(folder / "out")]
    flags += ["--allow-private", "--processes", "1", "--shard-rows", "60"]
    assert main(["download", "pixmo-cap", *flags]) == 0
    return folder / "out"


def test_download_keeps_the_rows_with_a_picture_and_counts_the_others(downloaded, rows):
    table = pq.ParquetDataset(sorted(downloaded.glob("train-*.parquet"))).read()
    numbers = [int(url.rsplit("/", 1)[1].removesuffix(".png")) for url in table["url"].to_pylist()]
    assert numbers == [n for n in range(ROWS) if n not in {*GONE, *HTML, *TRUNCATED}]
    assert table["image"].to_pylist() == [rows[n]["image"] for n in numbers]
    assert table["caption"].to_pylist() == [rows[n]["texts"][0] for n in numbers]
    assert table["transcripts"][0].as_py()[1] == rows[0]["texts"][0].upper()
    summary = json.loads((downloaded / "download.json").read_text())
    assert summary["complete"]
    assert summary["rows"] == {"train": ALIVE}
    reasons = {"gone": len(GONE), "not_an_image": len(HTML), "corrupt_image": len(TRUNCATED)}
    assert summary["skipped"] == reasons


def test_notebook_aligns_what_was_downloaded(downloaded, tmp_path):
    overrides = f"data.source=parquet data.parquet.train=[{downloaded}/train-*.parquet] "
    overrides += "data.split.val=0.2 data.split.test=0.3 data.hard_negatives=false "
    overrides += f"data.cache_dir={tmp_path}/cache train.batch_size=32 train.epochs=1 "
    overrides += "evaluate.tsne_rows=20 evaluate.bootstrap=20"
    config = load_config("params/tiny/align.yaml", overrides)
    write_features(config.data, config.feature_spec)  # the notebook launches no process for it
    notebook = run_notebook("01_align", tmp_path, overrides)
    sizes = {split: len(load_table(config.data, split)) for split in ("train", "val", "test")}
    assert sum(sizes.values()) == ALIVE
    assert abs(sizes["test"] - 0.3 * ALIVE) < 2
    assert f"test/vision: {sizes['test']} items" in printed_text(notebook)
    recall = pd.read_csv(tmp_path / "run/figures/recall_by_dim.csv")
    assert {*recall["rows"]} == {sizes["test"]}
    assert 0 <= read_metrics(tmp_path / "run")["test.text_to_vision.r1"] <= 1
