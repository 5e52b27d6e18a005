"""01_align, executed by papermill as a user would, on a smaller config."""

import json

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from notebook_outputs import figure_alts, printed_text
from notebook_runs import card_values, read_metrics, run_notebook
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from edge_lib.config import ScenesConfig, load_config
from edge_lib.features.extract import write_features
from edge_lib.runs import Run
from edge_lib.sources.scenes.generate import twin_groups
from edge_lib.sources.scenes.rows import scene_row

SMALL = (
    "data.scenes.train_size=400 data.scenes.val_size=40 data.scenes.test_size=200 "
    "data.scenes.swap_size=10 train.epochs=36 train.batch_size=128 train.eval_every=54 "
    "evaluate.tsne_rows=60 evaluate.bootstrap=100 launch.num_processes=2"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def executed(tmp_path_factory, cache):
    """A run on two processes, from a working directory that is not the repository's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    preload = ["edge_lib.experiments.align", "edge_lib.features.text"]
    notebook = run_notebook("01_align", folder, f"{SMALL} data.cache_dir={cache}", preload)
    return folder / "run", notebook


def test_recall_exceeds_that_of_a_wrong_loss(executed):
    metrics = json.loads((executed[0] / "metrics.json").read_text())
    # chance is 0.005; 0.25 is reached by finding the group and guessing among its four twins
    assert metrics["test.vision_to_text.r1"] > 0.45
    assert metrics["test.text_to_vision.r1"] > 0.45
    assert metrics["test.text_to_vision.r10"] > 0.8
    assert metrics["test.text_to_vision.r1.dim8"] <= metrics["test.text_to_vision.r1"] + 0.05


def test_figures_are_saved_with_their_numbers(executed):
    figures = executed[0] / "figures"
    names = {"samples", "loss_curve", "recall_by_dim", "tsne", "similarity", "retrieval"}
    names |= {"swap_probe"}
    assert {path.stem for path in figures.glob("*.png")} == names
    for name in names:
        assert min(Image.open(figures / f"{name}.png").size) > 300
        assert len((figures / f"{name}.csv").read_text().splitlines()) > 1


def test_card_has_the_metrics_and_the_limits(executed):
    best, metrics = executed[0] / "checkpoints/best", read_metrics(executed[0])
    values = card_values(best)
    assert len(values) == 6
    for name, value in values.items():
        rank, direction = name.split(", ")[:2]
        key = f"test.{direction.replace(' ', '_')}.{rank.lower().replace('@', '')}"
        assert value == metrics[key]
        assert "gallery of 200" in name
    assert f"group score {metrics['swap.group']:.3f}" in (best / "README.md").read_text()
    assert {path.stem for path in (best / "figures").iterdir()} == {"recall_by_dim", "swap_probe"}


def test_run_folder_describes_the_run(executed):
    run, _ = executed
    assert json.loads((run / "env.json").read_text())["torch"].startswith("2.13")
    assert "num_processes: 2" in (run / "config.yaml").read_text()
    for part in ("encode", "train"):
        logs = {path.name for path in (run / "logs" / part).glob("rank-*.log")}
        assert logs == {"rank-0.log", "rank-1.log"}
    assert "seconds.total" in json.loads((run / "metrics.json").read_text())


def test_notebook_shows_each_figure_once_with_alt_text_and_no_warning(executed):
    assert "Warning" not in printed_text(executed[1])
    alts = figure_alts(executed[1])
    assert len(alts) == 7
    assert all(len(alt) > 40 for alt in alts)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Files in PixMo's shape: scenes under other column names, with three broken rows."""
    folder = tmp_path_factory.mktemp("parquet")
    for split, size in (("train", 96), ("val", 24), ("test", 24)):
        scenes = [scene for group in twin_groups(split, size, 4, seed=3) for scene in group]
        rows = [scene_row(ScenesConfig(), scene, split, i, 0) for i, scene in enumerate(scenes)]
        images = [{"bytes": row["image"], "path": None} for row in rows]
        captions = [row["texts"][0] for row in rows]
        images[5]["bytes"], images[9]["bytes"], captions[7] = b"not an image", b"", " "
        columns = {"picture": images, "caption": captions}
        pq.write_table(pa.table(columns), folder / f"{split}-0.parquet")
    return folder


def test_parquet_with_broken_rows_is_aligned(tmp_path, cache, parquet):
    files = " ".join(
        f"data.parquet.{split}=[{parquet}/{split}-*.parquet]" for split in ("train", "val", "test")
    )
    overrides = f"data.source=parquet {files} data.parquet.image_column=picture "
    overrides += f"data.cache_dir={cache} data.hard_negatives=false train.batch_size=32 "
    overrides += "train.epochs=1 evaluate.tsne_rows=20 evaluate.bootstrap=20"
    config = load_config("params/tiny/align.yaml", overrides)
    write_features(config.data, config.feature_spec)  # the notebook launches no process for it
    notebook = run_notebook("01_align", tmp_path, overrides)
    assert "train/vision: 96 items, 2 skipped" in printed_text(notebook)
    assert "test/text: 23 items, 1 skipped" in printed_text(notebook)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "test.text_to_vision.r1" in metrics
    assert not any(name.startswith("swap") for name in metrics)


def test_notebook_shows_a_failed_process_and_leaves_none_behind(tmp_path, cache, monkeypatch):
    overrides = f"{SMALL} data.cache_dir={cache}"
    monkeypatch.setattr("edge_lib.runs.run.lock_folder", lambda *_: None)  # the notebook locks it
    run = Run.create(load_config("params/tiny/align.yaml", overrides), "01_align", tmp_path / "run")
    (run.folder / "metrics.jsonl").mkdir()  # the training processes write it
    monkeypatch.setenv("STARTED_BY", str(tmp_path))  # inherited by all processes of the notebook
    with pytest.raises(PapermillExecutionError, match="Is a directory"):
        run_notebook("01_align", tmp_path, overrides)
    text = (tmp_path / "out.ipynb").read_text()
    assert "experiments/align.py" in text  # the traceback of the process
    started = [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline", "environ"])
        if (process.info["environ"] or {}).get("STARTED_BY") == str(tmp_path)
    ]
    assert not [command for command in started if "resource_tracker" not in command]
