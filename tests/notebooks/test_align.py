"""01_align, executed by papermill as a user would, on a smaller config."""

import json

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from notebook_runs import run_notebook
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from edge_lib.config import ScenesConfig
from edge_lib.sources.scenes.generate import twin_groups
from edge_lib.sources.scenes.rows import scene_row

SMALL = (
    "data.scenes.train_size=2000 data.scenes.val_size=200 data.scenes.test_size=200 "
    "data.scenes.swap_size=20 train.epochs=12 train.eval_every=40 evaluate.tsne_rows=60 "
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def executed(tmp_path_factory, cache):
    """A run on two processes, from a working directory that is not the repository's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    notebook = run_notebook(
        "01_align", folder, f"{SMALL} data.cache_dir={cache} launch.num_processes=2"
    )
    return folder / "run", notebook


def test_recall_is_far_above_what_a_broken_loss_would_give(executed):
    metrics = json.loads((executed[0] / "metrics.json").read_text())
    assert metrics["test.vision_to_text.r1"] > 0.45  # chance 0.005; a blind pick among twins 0.25
    assert metrics["test.text_to_vision.r1"] > 0.45
    assert metrics["test.text_to_vision.r10"] > 0.8
    assert metrics["test.text_to_vision.r1.dim8"] <= metrics["test.text_to_vision.r1"] + 0.05


def test_figures_and_their_numbers_are_there(executed):
    figures = executed[0] / "figures"
    names = {"samples", "loss_curve", "recall_by_dim", "tsne", "similarity", "retrieval"}
    names |= {"swap_probe"}
    assert {path.stem for path in figures.glob("*.png")} == names
    for name in names:
        assert min(Image.open(figures / f"{name}.png").size) > 300
        assert len((figures / f"{name}.csv").read_text().splitlines()) > 1


def test_run_folder_says_what_was_run(executed):
    run, _ = executed
    assert json.loads((run / "env.json").read_text())["torch"].startswith("2.13")
    assert "num_processes: 2" in (run / "config.yaml").read_text()
    for part in ("encode", "train"):
        logs = {path.name for path in (run / "logs" / part).glob("rank-*.log")}
        assert logs == {"rank-0.log", "rank-1.log"}
    assert "seconds.total" in json.loads((run / "metrics.json").read_text())


def test_every_figure_is_shown_once_and_nothing_warns(executed):
    outputs = [o for cell in executed[1].cells for o in cell.get("outputs", [])]
    assert "Warning" not in "".join(o.get("text", "") for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 7


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Files in PixMo's shape: scenes under other column names, with three rows that are broken."""
    folder = tmp_path_factory.mktemp("parquet")
    for split, size in (("train", 320), ("val", 64), ("test", 64)):
        made = [s for group in twin_groups(split, size, 4, seed=3) for s in group]
        rows = [scene_row(ScenesConfig(), scene, split, i, 0) for i, scene in enumerate(made)]
        images = [{"bytes": row["image"], "path": None} for row in rows]
        captions = [row["texts"][0] for row in rows]
        images[5]["bytes"], images[9]["bytes"], captions[7] = b"not an image", b"", " "
        columns = {"picture": images, "caption": captions}
        pq.write_table(pa.table(columns), folder / f"{split}-0.parquet")
    return folder


def test_any_parquet_with_broken_rows(tmp_path, cache, parquet):
    files = " ".join(
        f"data.parquet.{split}=[{parquet}/{split}-*.parquet]" for split in ("train", "val", "test")
    )
    notebook = run_notebook(
        "01_align",
        tmp_path,
        f"data.source=parquet {files} data.parquet.image_column=picture data.cache_dir={cache} "
        "data.hard_negatives=false train.batch_size=64 train.epochs=4 evaluate.tsne_rows=60",
    )
    text = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "train/vision: 320 items, 2 skipped" in text
    assert "test/text: 63 items, 1 skipped" in text
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "test.text_to_vision.r1" in metrics
    assert not any(name.startswith("swap") for name in metrics)


def test_failing_process_is_shown_in_the_notebook_and_leaves_none_behind(
    tmp_path, cache, monkeypatch
):
    monkeypatch.setenv("STARTED_BY", str(tmp_path))  # all that the notebook starts inherit it
    overrides = f"{SMALL} data.cache_dir={cache} launch.num_processes=2 train.batch_size=33"
    with pytest.raises(PapermillExecutionError, match="does not divide among 2 processes"):
        run_notebook("01_align", tmp_path, overrides)
    text = (tmp_path / "out.ipynb").read_text()
    assert "data/batches.py" in text  # the child's own traceback
    started = [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline", "environ"])
        if (process.info["environ"] or {}).get("STARTED_BY") == str(tmp_path)
    ]
    assert not [command for command in started if "resource_tracker" not in command]
