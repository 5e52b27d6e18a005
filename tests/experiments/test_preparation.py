"""What the points of a sweep share is made once, and only if it is missing."""

import pytest

from edge_lib.config import load_config
from edge_lib.experiments import preparation
from edge_lib.features.extract import has_features
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


def test_preparation_makes_features(make_points, monkeypatch):
    launch = "edge_lib.features.extract.launch"  # processes take seconds to start
    monkeypatch.setattr(launch, lambda function, *args, **_: {0: function(*args)})
    points = make_points("train.lr=0.1", "train.lr=0.2")
    preparation.preparation(points)()
    config = points[0].config
    assert has_features(config.data, config.feature_spec)
    assert preparation.preparation(points) is None


def test_preparation_includes_missing_aligner(tmp_path, monkeypatch):
    config = load_config("params/tiny/trm_qa.yaml", "sweep=null")
    monkeypatch.setattr(preparation, "aligner_folder", lambda source: tmp_path / "none")
    point = Point("a", {}, config, tmp_path / "point")
    assert preparation.preparation([point]).configs == [config]


def test_preparation_includes_missing_download(tmp_path):
    config = load_config("params/stamps/align.yaml", f"data.download.out={tmp_path}/stamps")
    point = Point("a", {}, config, tmp_path / "point")
    assert preparation.preparation([point]).configs == [config]
