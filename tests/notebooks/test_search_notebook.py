"""08_search, executed by papermill as a user would, on scenes and on a folder of one's own."""

import json

import pandas as pd
import pytest
from notebook_outputs import figure_alts, printed_text
from notebook_runs import read_metrics, run_notebook

from edge_lib import Aligner
from edge_lib.config import load_config
from edge_lib.experiments.search import present_modalities
from edge_lib.features.extract import write_features
from edge_lib.sources import load_table

SMALL = "data.scenes.test_size=200 evaluate.bootstrap=50 search.map_points=300"


def run_search(folder, overrides):
    """Executed notebook of `params/tiny/search.yaml`; it launches no process to encode."""
    overrides = f"{overrides} data.cache_dir={folder / 'cache'}"
    config = load_config("params/tiny/search.yaml", overrides)
    aligner = Aligner.untrained(config.aligner.folder)
    table = load_table(config.data, config.search.split)
    names = present_modalities(aligner, table, config.search)
    spec = aligner.feature_spec(config.features, config.data.cache_dir, names)
    write_features(config.data, spec, [config.search.split])
    return run_notebook("08_search", folder, overrides)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    return folder / "run", run_search(folder, SMALL)


def test_search_finds_captioned_pictures_and_their_labels(executed):
    metrics = read_metrics(executed[0])
    assert metrics["items"] == 200
    assert metrics["test.text_to_vision.r5"] > 0.9  # chance 0.025
    assert metrics["zero_shot.accuracy"] > 0.7  # chance 0.1
    assert metrics["self_query.r1.dim8"] > 0.99


def test_query_by_a_picture_finds_itself_then_its_twins(executed):
    queries = pd.read_csv(executed[0] / "figures/queries.csv")
    own = queries[queries["query"] == "vision test-000040"]
    assert own["item"].iloc[0] == 40
    assert {*own["item"].iloc[1:4]} & {41, 42, 43}
    assert own["cosine"].iloc[0] == pytest.approx(1, abs=1e-5)


def test_figures_have_alt_text_and_no_widget_when_headless(executed):
    run, notebook = executed
    names = {"queries", "recall_by_dim", "labels", "label_confusion", "duplicates", "outliers"}
    assert {path.stem for path in (run / "figures").glob("*.png")} == names | {"map"}
    assert len(figure_alts(notebook)) == 7
    assert "Warning" not in printed_text(notebook)
    assert "widget" not in json.dumps(
        [notebook.metadata, [c.get("outputs") for c in notebook.cells]]
    )
    assert len(pd.read_csv(run / "figures/map.csv")) == 300


def test_folder_of_pictures_without_captions_is_searched(tmp_path):
    scenes = load_config("params/tiny/search.yaml", f"{SMALL} data.cache_dir={tmp_path}/scenes")
    table = load_table(scenes.data, "test")
    for row in range(12):
        folder = tmp_path / "pictures/test" / ("first" if row < 6 else "second")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row:02d}.png").write_bytes(table.cells("image", [row])[0])
    (folder / "broken.png").write_bytes(b"no picture")
    overrides = f"data.source=folder data.folder.path={tmp_path}/pictures search.labels=null "
    overrides += "data.folder.caption_column=null search.queries=[] search.top=20"
    notebook = run_search(tmp_path, overrides)
    assert "test/vision: 13 items, 1 skipped" in printed_text(notebook)
    assert "no caption" not in printed_text(notebook)
    metrics = read_metrics(tmp_path / "run")
    assert metrics["items"] == 12
    assert not any(name.startswith("test.") for name in metrics)
    outliers = pd.read_csv(tmp_path / "run/figures/outliers.csv")
    assert len(outliers) == 12
