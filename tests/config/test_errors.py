"""Invalid keys and values: the origin, the key and the allowed values are named."""

import json
from pathlib import Path

import pytest

from edge_lib.config import VLMConfig, load_config

VLM = "vlm.language.model=a"


@pytest.mark.parametrize(
    ("wrong", "key", "near"),
    [
        ("trian.lr=1", "trian", "'train'"),
        ("train.leraning_rat=1 train.epoch=1", "train.epoch", "'train.epochs'"),
        ("vision.encoder=a vision.poller=mean", "vision.poller", "'vision.pooler'"),
        ("data.scenes.max_object=3", "data.scenes.max_object", "'data.scenes.max_objects'"),
    ],
)
def test_unknown_key_suggests_nearest(message, plain, wrong, key, near):
    text = message(plain, wrong)
    assert f"overrides: {key}: unknown key; did you mean {near}?" in text
    assert "allowed here: " in text


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("learning_rate", "train.lr"),
        ("train.learning_rate", "train.lr"),
        ("lr", "train.lr"),
        ("train.batch", "train.batch_size"),
        ("batch", "train.batch_size"),
        ("steps", "train.max_steps"),
        ("train.steps", "train.max_steps"),
        ("num_epochs", "train.epochs"),
        ("train.num_epochs", "train.epochs"),
        ("max_objects", "data.scenes.max_objects"),
        ("vlm.stages.lora.learning_rate", "vlm.stages.lora.lr"),
    ],
)
def test_unknown_key_suggests_synonym_or_other_section(message, plain, key, nearest):
    text = message(plain, f"{VLM} {key}=1")
    assert text.startswith(f"overrides: {key}: unknown key; did you mean '{nearest}'? ")
    assert len(text.splitlines()) == 1


def test_unknown_key_lists_allowed_keys(message, plain):
    text = message(plain, "evaluate.zzz=1")
    assert "did you mean" not in text
    assert "allowed here: bootstrap, classes, contrasts, dims, ks, probe_split, templates" in text


def test_errors_are_reported_together(message, plain):
    assert len(message(plain, "train.lr=-1 train.foo=1 seed=x").splitlines()) == 3


@pytest.mark.parametrize(
    ("parent", "child", "overrides", "blamed"),
    [
        ("train: {lrr: 1}", "seed: 1", "seed=2", "parent.yaml"),
        ("seed: 1", "train: {lrr: 1}", "train.lr=1", "child.yaml"),
        ("train: {lr: 1}", "train: {lr: 1}", "train.lrr=1", "overrides"),
        ("train: {lr: -1}", "train: {epochs: 1}", "train.clip=1", "parent.yaml"),
        ("train: {lr: 1}", "train: {lr: -1}", "train.clip=1", "child.yaml"),
        ("train: {lr: -1}", "train: {lr: -2}", "train.lr=-3", "overrides"),
        ("loss: {dims: [8, -1]}", "seed: 1", "loss.chunk=2", "parent.yaml"),
        ("seed: 1", "train: {betas: [0.9, 2]}", "", "child.yaml"),
        ("seed: 1", "loss: {dims: [8, 8]}", "", "child.yaml"),
    ],
)
def test_error_names_file_that_sets_key(message, write, parent, child, overrides, blamed):
    write("parent.yaml", f"name: x\n{parent}\n")
    text = message(write("child.yaml", f"extends: parent.yaml\n{child}\n"), overrides)
    origin = text.split(": ")[0]
    assert Path(origin).name == blamed
    assert len(text.splitlines()) == 1


def test_missing_key_names_file_not_overrides(message, write):
    path = write("anonymous.yaml", "seed: 1\n")
    assert message(path, "train.lr=0.1").startswith(f"{path}: name: Field required")


@pytest.mark.parametrize(
    ("wrong", "key", "allowed"),
    [
        ("train.lr=-1", "train.lr", "greater than 0"),
        ("train.lr=fast", "train.lr", "number"),
        ("train.lr=nan", "train.lr", "finite"),
        ("train.epochs=1.5", "train.epochs", "integer"),
        ("train.batch_size=1", "train.batch_size", "greater than or equal to 2"),
        ("train.warmup=1.1", "train.warmup", "less than or equal to 1"),
        ("train.text_dropout=1", "train.text_dropout", "less than 1"),
        ("train.precision=fp8", "train.precision", "'fp32', 'bf16' or 'fp16'"),
        ("train.betas=[0.9]", "train.betas.1", "required"),
        ("train=3", "train", "expected the keys of a section (got 3)"),
        ("train=null", "train", "expected the keys of a section (got None)"),
        ("data.missing.vsion=0.1", "overrides: data.missing.vsion: ", "did you mean 'vision'?"),
        ("evaluate.ks=[]", "evaluate.ks", "at least 1"),
        ("fusion.strategies=[]", "fusion.strategies", "at least 1"),
        ("fusion.seeds=[]", "fusion.seeds", "at least 1"),
        ("fusion.damage.dropped=1", "fusion.damage.dropped", "less than 1"),
        ("fusion.damage.noise=-1", "fusion.damage.noise", "greater than or equal to 0"),
        ("fusion.damage.energy=2", "fusion.damage.energy", "less than or equal to 1"),
        ("fusion.damage.share=50%", "fusion.damage.share", "number"),
        ("fusion.damage.noice=1", "fusion.damage.noice", "did you mean 'fusion.damage.noise'?"),
        ("sweep.grids={a: {}} sweep.seeds=[]", "sweep.seeds", "at least 1"),
        ("'sweep.grids={a: {train.lr: []}}'", "sweep.grids.a.train.lr", "at least 1"),
        ("'sweep.grids={a: {seed: [3]}}'", "grids.a.seed", "set sweep.seeds"),
        ("data.scenes.max_objects=10", "data.scenes.max_objects", "less than or equal to 9"),
        ("name=a/b", "name", "pattern"),
        ("seed=-1", "seed", "greater than or equal to 0"),
        ("loss.dims=[8,8]", "loss", "different sizes"),
        ("loss.dims=[]", "loss", "different sizes"),
        ("loss.dims=[8,0]", "loss.dims.1", "greater than 0"),
        ("loss.dims=[8,4] loss.weights=[1]", "loss", "1 weights for 2 dims"),
        ("data.source=parquet", "data", "a section 'parquet'"),
        ("vision.encoder=a vision.augment=true", "vision.augment", "features.online=true"),
        ("train.num_workers=1 features.online=true", "train.num_workers", "must be 0"),
        ("train.num_workers=1 features.on_device=true", "train.num_workers", "must be 0"),
        ("train.sharding=fsdp2", "train.sharding", "only vlm.stages can be sharded"),
        (
            f"{VLM} vlm.stages.projector.num_workers=1 features.on_device=true",
            "vlm.stages",
            "be 0",
        ),
        (f"{VLM} features.online=true", "features.online", "train from the feature store"),
        (f"{VLM} 'vlm.language.max_memory={{0: 20GiB}}'", "language", "needs a device_map"),
        (f"{VLM} vlm.language.device_map=auto launch.num_processes=2", "device_map", "=1"),
        (f"{VLM} vlm.stages.lora.sharding=fsdp2 vlm.stages.lora.ema=0.9", "vlm", "ema"),
        (f"{VLM} vlm.language.lora=null vlm.stages.lora.lr=1", "vlm", "needs language.lora"),
        (f"{VLM} vlm.stages.lora.sharding=fsdp2 vlm.language.quantize=4bit", "vlm", "to be null"),
        (f"{VLM} 'vlm.prefix_sources={{image: fused}}'", "vlm", "needs vlm.fusion"),
        (f"{VLM} 'vlm.prefix_sources={{image: audio}}'", "vlm", "<image> takes source vision"),
        (f"{VLM} vlm.stages={{}}", "vlm.stages", "at least 1"),
        ("data.conversations.source=llava", "data.conversations", "a section 'llava'"),
    ],
)
def test_invalid_value_is_rejected_with_allowed_values(message, plain, wrong, key, allowed):
    text = message(plain, wrong)
    assert key in text
    assert allowed in text


@pytest.mark.parametrize(
    "right",
    [
        "vision.encoder=a vision.augment=true features.online=true",
        "train.num_workers=2",
        "features.online=true",
        "loss.dims=[8,4] loss.weights=[1,0.5]",
        "data.scenes.max_objects=9",
        f"{VLM} vlm.stages.projector.num_workers=1",
        f"{VLM} vlm.language.lora=null",
        f"{VLM} vlm.stages.lora.sharding=fsdp2",
    ],
)
def test_valid_neighbours_of_invalid_values_are_accepted(plain, right):
    load_config(plain, right)


def test_device_numbers_survive_json(plain):
    memory = "vlm.language.device_map=auto 'vlm.language.max_memory={0: 20GiB, cpu: 60GiB}'"
    config = load_config(plain, f"{VLM} {memory}")
    again = VLMConfig.model_validate(json.loads(config.vlm.model_dump_json()))
    assert again.language.max_memory == {0: "20GiB", "cpu": "60GiB"}


@pytest.mark.parametrize(
    ("overrides", "content"),
    [("vlm.stages.lora.max_step=3", ""), ("", "vlm: {stages: {lora: {max_step: 3}}}\n")],
)
def test_unknown_key_in_dict_of_sections_suggests_nearest(message, write, overrides, content):
    write("parent.yaml", "name: x\nvlm: {language: {model: y}}\n")
    text = message(write("child.yaml", f"extends: parent.yaml\n{content}"), overrides)
    assert "vlm.stages.lora.max_step: unknown key" in text
    assert "did you mean 'vlm.stages.lora.max_steps'?" in text


def test_vlm_stages_are_ordered(plain):
    stages = load_config(plain, f"{VLM} 'vlm.stages={{lora: {{}}, projector: {{}}}}'").vlm.stages
    assert list(stages) == ["projector", "lora"]


def test_list_in_place_of_section_is_rejected(message, write):
    write("parent.yaml", "name: x\ntrain: {lr: 1}\n")
    assert "child.yaml" in message(write("child.yaml", "extends: parent.yaml\ntrain: [1]\n"))
