"""What the points of a sweep share is made once, and only if it is missing."""

import shutil

import nbformat
import pytest

from edge_lib.config import SweepConfig, load_config
from edge_lib.experiments import preparation
from edge_lib.features.extract import has_features, launch_logs
from edge_lib.runs.notebooks import aligner_folder, executed_notebook
from edge_lib.runs.points import Point


@pytest.fixture
def make_points(small_align, tiny_text, tmp_path):
    """make_points("key=value ...", ...) -> pending points whose features are in a new folder."""

    def make(*overrides):
        configs = [
            small_align(f"data.cache_dir={tmp_path} text.encoder={tiny_text} {text}")
            for text in overrides
        ]
        folders = [tmp_path / str(number) for number in range(len(configs))]
        return [Point("a", {}, *pair) for pair in zip(configs, folders, strict=True)]

    return make


def test_preparation_lists_equal_inputs_once(make_points):
    rates = make_points("train.lr=0.1", "train.lr=0.2 loss.dims=[8]", "features.precision=bf16")
    prepared = preparation.preparation(rates)
    assert [config.features.precision for config in prepared.configs] == ["fp32", "bf16"]


def test_preparation_leaves_out_points_that_are_done(make_points):
    points = make_points("train.lr=0.1")
    points[0].folder.mkdir()
    (points[0].folder / "metrics.json").write_text("{}")
    assert preparation.preparation(points) is None


def test_preparation_includes_points_that_failed(make_points):
    points = make_points("train.lr=0.1")
    points[0].folder.mkdir()
    metadata = {"papermill": {"exception": True}}
    notebook = nbformat.v4.new_notebook(metadata=metadata)
    nbformat.write(notebook, executed_notebook(points[0].folder))
    assert points[0].state == "failed"
    assert len(preparation.preparation(points).configs) == 1


def test_preparation_lists_encoders_once_whatever_reads_them(make_points):
    heads = "vision.width=16", "vision.width=32", "vision.num_latents=4", "text.width=32"
    assert len(preparation.preparation(make_points(*heads)).configs) == 1
    poolers = make_points("vision.pooler=perceiver", "vision.pooler=pooled")
    assert len(preparation.preparation(poolers).configs) == 2


def test_preparation_reads_no_items_to_see_what_is_missing(make_points, monkeypatch):
    def refuse(*_):
        raise AssertionError("items were read")

    monkeypatch.setattr("edge_lib.sources.digests.cell_digests", refuse)
    assert preparation.preparation(make_points("train.lr=0.1"))


def test_preparation_of_vlm_takes_stored_prefixes(make_vlm_config, tmp_path):
    config = make_vlm_config()
    point = Point("a", {}, config, tmp_path / "point")
    assert preparation.preparation([point]) is None
    shutil.copytree(config.data.cache_dir / "items", tmp_path / "cache" / "items")
    config = make_vlm_config(f"data.cache_dir={tmp_path}/cache")
    missing = preparation.preparation([Point("a", {}, config, tmp_path / "point")])
    assert missing.configs == [config]


def test_run_prepared_passes_what_slurm_jobs_wait_for(make_points, monkeypatch):
    passed = []
    monkeypatch.setattr(preparation, "run_sweep", lambda *arguments: passed.append(arguments))
    points = make_points("train.lr=0.1")
    for cluster in ("slurm", "local"):
        preparation.run_prepared(points, SweepConfig(grids={}, cluster=cluster))
    assert [prepare and len(prepare.configs) for *_, prepare in passed] == [1, None]


def test_preparation_makes_features(make_points, monkeypatch):
    launch = "edge_lib.features.extract.launch"  # processes take seconds to start
    monkeypatch.setattr(launch, lambda function, *args, **_: {0: function(*args)})
    points = make_points("train.lr=0.1", "train.lr=0.2")
    preparation.preparation(points)()
    config = points[0].config
    assert has_features(config.data, config.feature_spec)
    assert preparation.preparation(points) is None


def test_launches_for_different_stores_of_a_cache_have_a_folder_each(make_points):
    """In one folder, a launch on Slurm would cancel the job of the other."""
    folders = [
        launch_logs((config := point.config).data, config.feature_spec)
        for point in make_points("train.lr=1", "train.lr=2", "features.precision=bf16")
    ]
    assert folders[0] == folders[1] != folders[2]
    assert folders[0].parent == folders[2].parent == config.data.cache_dir / "logs"


def test_preparation_includes_missing_aligner(tmp_path, monkeypatch):
    config = load_config("params/tiny/trm_qa.yaml", "sweep=null")
    monkeypatch.setattr("edge_lib.runs.run.ROOT", tmp_path)
    best = aligner_folder(config.aligner)
    best.mkdir(parents=True)  # as a run that is in training has it
    point = Point("a", {}, config, tmp_path / "point")
    assert preparation.preparation([point]).configs == [config]


def test_preparation_includes_missing_download(tmp_path):
    config = load_config("params/stamps/align.yaml", f"data.download.out={tmp_path}/stamps")
    point = Point("a", {}, config, tmp_path / "point")
    assert preparation.preparation([point]).configs == [config]
