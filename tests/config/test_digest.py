"""Digests name run folders: equal for equal configs, whatever their spelling."""

import pytest
from pydantic import Field

from edge_lib.config import ROOT, ExperimentConfig, load_config
from edge_lib.config.base import Section


def test_digest_ignores_key_order_and_checkout(write, plain):
    one = load_config(write("a.yaml", "name: x\nseed: 3\ntrain: {lr: 0.1, epochs: 2}\n"))
    two = load_config(
        write("b.yaml", "train: {epochs: 2}\nseed: 3\nname: x\n"),
        f"train.lr=1e-1 data.cache_dir={ROOT}/runs/cache",
    )
    assert one.digest() == two.digest()
    assert one.model_dump(mode="json")["data"]["cache_dir"] == "runs/cache"


@pytest.mark.parametrize(
    "change",
    [
        "name=other",
        "seed=1",
        "data.cache_dir=other",
        "data.parquet.train=[x.parquet]",
        "vision.pooler=mean",
        "text.revision=abc",
        "text.dropout=0.1",
        "loss.dims=[4,8]",
        "loss.weights=[1,0.25]",
        "features.dtype=float32",
        "train.lr=1.0000001e-3",
        "launch.num_processes=2",
        "evaluate.ks=[1]",
        "backbones.vision.output=/somewhere",
        "vision=null",
    ],
)
def test_digest_changes_with_any_value(full, change):
    assert load_config(full, change).digest() != load_config(full).digest()


@pytest.mark.parametrize(
    "change",
    [
        "launch.node_rank=1",
        "launch.rdzv_endpoint=host:1",
        "features.num_processes=2",
        "sweep.workers=7",
        "sweep.threads=3",
        "sweep.gpus=2",
        "sweep.retry=true",
        "sweep.cluster=slurm",
        "sweep.slurm={slurm_partition: long}",
    ],
)
def test_digest_ignores_keys_that_change_no_result(full, change):
    base = "sweep.grids={a: {}} features.dtype=float32 launch.num_processes=2"
    one, two = load_config(full, base), load_config(full, f"{base} {change}")
    assert one != two
    assert one.digest() == two.digest()
    assert one.to_yaml() == two.to_yaml()


@pytest.mark.parametrize(
    "change", ["launch.node_rank=1", "launch.rdzv_endpoint=host:1", "features.num_processes=2"]
)
def test_digest_ignores_these_keys_in_default_sections(full, change):
    assert load_config(full, change).digest() == load_config(full).digest()


def test_digest_ignores_new_section_with_default(full, monkeypatch):
    config = load_config(full, "fusion=null")
    before = config.digest()
    fields = {n: f for n, f in ExperimentConfig.model_fields.items() if n != "fusion"}
    monkeypatch.setattr(ExperimentConfig, "__pydantic_fields__", fields)
    assert config.digest() == before


class OldTrain(Section):
    lr: float = 0.1


class NewTrain(OldTrain):
    momentum: float = 0.9


class Old(Section):
    train: OldTrain = OldTrain()
    stages: dict[str, OldTrain] = Field({})


class New(Section):
    train: NewTrain = NewTrain()
    stages: dict[str, NewTrain] = Field({})
    note: str | None = None


@pytest.mark.parametrize(
    "values",
    [{}, {"train": {"lr": 0.2}}, {"stages": {"one": {}}}, {"stages": {"one": {"lr": 0.3}}}],
    ids=["defaults", "section", "dict-of-sections", "value-in-dict-of-sections"],
)
def test_digest_ignores_new_key_with_default(values):
    assert New(**values).digest() == Old(**values).digest()


@pytest.mark.parametrize(
    "values",
    [{"note": "x"}, {"train": {"momentum": 0.5}}, {"stages": {"one": {"momentum": 0.5}}}],
    ids=["key", "section", "dict-of-sections"],
)
def test_digest_changes_with_value_of_new_key(values):
    assert New(**values).digest() != New().digest()


def test_digest_ignores_spelled_out_default(full):
    assert load_config(full, "train.lr=1e-3").digest() == load_config(full).digest()


def test_digest_distinguishes_null_from_default_section(full):
    without, default = load_config(full, "fusion=null vision=null"), load_config(full)
    assert without.vision is None
    assert without.digest() != default.digest()
