"""Reading, merging and checking parameters."""

import json
from pathlib import Path

import pytest

from edge_lib.config import ROOT, ConfigError, ExperimentConfig, VLMConfig, load_config

TALK = "vlm.language.model=a"
FULL = """
name: full
vision: {encoder: tiny-resnet, pooler: perceiver}
text: {encoder: all-MiniLM-L6-v2}
data: {source: parquet, parquet: {train: [a.parquet], val: [b.parquet], test: [c.parquet]}}
loss: {dims: [8, 4], weights: [1, 0.5]}
backbones: {vision: {output: /somewhere/else}}
"""


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def plain(write):
    return write("plain.yaml", "name: plain\n")


def message(path, overrides="") -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


# --- merging ---------------------------------------------------------------------------------


def test_extends_merges_deeply_along_a_chain(write):
    write("a.yaml", "name: a\nseed: 1\ntrain: {lr: 0.1, epochs: 2}\nloss: {dims: [8, 4]}\n")
    write("b.yaml", "extends: a.yaml\nname: b\ntrain: {epochs: 3}\n")
    config = load_config(write("c.yaml", "extends: b.yaml\ntrain: {clip: 5}\nloss: {dims: [16]}\n"))
    assert (config.name, config.seed) == ("b", 1)
    assert (config.train.lr, config.train.epochs, config.train.clip) == (0.1, 3, 5)
    assert config.loss.dims == [16], "a list replaces a list"


def test_extends_is_relative_to_the_file_itself(write, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    write("base.yaml", "name: base\nseed: 7\n")
    child = write("sub/child.yaml", "extends: ../base.yaml\n")
    monkeypatch.chdir("/")
    assert load_config(child).seed == 7


def test_null_takes_an_inherited_section_away(write):
    write("a.yaml", "name: a\ntext: {encoder: x}\nvision: {encoder: y}\n")
    config = load_config(write("b.yaml", "extends: a.yaml\ntext: null\n"))
    assert list(config.modalities) == ["vision"]


@pytest.mark.parametrize("loop", [("a",), ("a", "b"), ("a", "b", "c")])
def test_a_cycle_is_refused(write, loop):
    for name, parent in zip(loop, (*loop[1:], loop[0]), strict=True):
        path = write(f"{name}.yaml", f"name: x\nextends: {parent}.yaml\n")
    text = message(path)
    assert "extends itself" in text
    assert all(f"{name}.yaml" in text for name in loop)


def test_a_diamond_is_no_cycle(write):
    write("base.yaml", "name: x\n")
    write("mid.yaml", "extends: base.yaml\n")
    assert load_config(write("top.yaml", "extends: mid.yaml\n")).name == "x"


def test_overrides_win_and_may_open_a_new_section(write):
    path = write("a.yaml", "name: a\ntrain: {lr: 0.1, epochs: 2}\n")
    config = load_config(path, 'train.lr=0.3 vision.encoder=clip loss.dims=[8,4] name="b"')
    assert (config.name, config.train.lr, config.train.epochs) == ("b", 0.3, 2)
    assert (config.vision.encoder, config.loss.dims) == ("clip", [8, 4])


@pytest.mark.parametrize("spelling", ["1e-4", "1E-4", "0.0001", "1.0e-4", "'1e-4'"])
def test_scientific_notation_is_a_number_in_files_and_overrides(write, plain, spelling):
    in_file = load_config(write("a.yaml", f"name: plain\ntrain: {{lr: {spelling}}}\n"))
    in_override = load_config(plain, f"train.lr={spelling}")
    for config in (in_file, in_override):
        assert type(config.train.lr) is float
        assert config.train.lr == pytest.approx(1e-4)
    assert in_file.digest() == in_override.digest()


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "key", "near"),
    [
        ("trian.lr=1", "trian", "'train'"),
        ("train.leraning_rat=1 train.epoch=1", "train.epoch", "'train.epochs'"),
        ("vision.encoder=a vision.poller=mean", "vision.poller", "'vision.pooler'"),
        ("data.scenes.max_object=3", "data.scenes.max_object", "'data.scenes.max_objects'"),
    ],
)
def test_unknown_key_names_the_key_and_the_nearest(plain, wrong, key, near):
    text = message(plain, wrong)
    assert f"overrides: {key}: unknown key; did you mean {near}?" in text
    assert "allowed here: " in text


def test_unknown_key_without_a_neighbour_lists_what_is_allowed(plain):
    text = message(plain, "evaluate.zzz=1")
    assert "did you mean" not in text
    assert "bootstrap, dims, ks, tsne_perplexity, tsne_rows" in text


def test_all_problems_are_told_at_once(plain):
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
def test_the_layer_that_holds_the_wrong_key_is_blamed(write, parent, child, overrides, blamed):
    write("parent.yaml", f"name: x\n{parent}\n")
    text = message(write("child.yaml", f"extends: parent.yaml\n{child}\n"), overrides)
    origin = text.split(": ")[0]
    assert Path(origin).name == blamed
    assert len(text.splitlines()) == 1


def test_a_missing_required_key_blames_the_file_not_the_overrides(write):
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
        ("train=3", "train", "dictionary"),
        ("data.scenes.max_objects=10", "data.scenes.max_objects", "less than or equal to 9"),
        ("name=a/b", "name", "pattern"),
        ("seed=-1", "seed", "greater than or equal to 0"),
        ("loss.dims=[8,8]", "loss", "different sizes"),
        ("loss.dims=[]", "loss", "different sizes"),
        ("loss.dims=[8,0]", "loss.dims.1", "greater than 0"),
        ("loss.dims=[8,4] loss.weights=[1]", "loss", "1 weights for 2 dims"),
        ("data.source=parquet", "data", "data.parquet"),
        ("vision.encoder=a vision.augment=true", "vision.augment", "features.online=true"),
        ("train.num_workers=1 features.online=true", "train.num_workers", "must be 0"),
        ("train.num_workers=1 features.on_device=true", "train.num_workers", "must be 0"),
        ("train.sharding=fsdp2", "train.sharding", "only vlm.stages can be sharded"),
        (
            f"{TALK} vlm.stages.projector.num_workers=1 features.on_device=true",
            "vlm.stages",
            "be 0",
        ),
        (f"{TALK} features.online=true", "features.online", "read the feature store"),
        (f"{TALK} 'vlm.language.max_memory={{0: 20GiB}}'", "language", "needs a device_map"),
        (f"{TALK} vlm.language.device_map=auto launch.num_processes=2", "device_map", "=1"),
        (f"{TALK} vlm.stages.lora.sharding=fsdp2 vlm.stages.lora.ema=0.9", "vlm", "ema"),
        (f"{TALK} vlm.language.lora=null vlm.stages.lora.lr=1", "vlm", "give language.lora"),
        (f"{TALK} vlm.stages.lora.sharding=fsdp2 vlm.language.quantize=4bit", "vlm", "to be null"),
        (f"{TALK} 'vlm.streams={{image: fused}}'", "vlm", "needs vlm.fusion"),
        (f"{TALK} 'vlm.streams={{image: audio}}'", "vlm", "<image> stands for vision"),
        (f"{TALK} vlm.stages={{}}", "vlm.stages", "at least 1"),
        ("data.conversations.source=llava", "data.conversations", "needs data.conversations.llava"),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(plain, wrong, key, allowed):
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
        f"{TALK} vlm.stages.projector.num_workers=1",
        f"{TALK} vlm.language.lora=null",
        f"{TALK} vlm.stages.lora.sharding=fsdp2",
    ],
)
def test_their_right_neighbours_are_taken(plain, right):
    load_config(plain, right)


def test_devices_stay_numbers_through_json(plain):
    memory = "vlm.language.device_map=auto 'vlm.language.max_memory={0: 20GiB, cpu: 60GiB}'"
    config = load_config(plain, f"{TALK} {memory}")
    again = VLMConfig.model_validate(json.loads(config.vlm.model_dump_json()))
    assert again.language.max_memory == {0: "20GiB", "cpu": "60GiB"}


@pytest.mark.parametrize(
    ("overrides", "content"),
    [("vlm.stages.lora.max_step=3", ""), ("", "vlm: {stages: {lora: {max_step: 3}}}\n")],
)
def test_a_wrong_key_among_several_sections_is_named(write, overrides, content):
    write("parent.yaml", "name: x\nvlm: {language: {model: y}}\n")
    text = message(write("child.yaml", f"extends: parent.yaml\n{content}"), overrides)
    assert "vlm.stages.lora.max_step: unknown key" in text
    assert "did you mean 'vlm.stages.lora.max_steps'?" in text


def test_a_missing_folder_is_named(write):
    text = message(write("child.yaml", "extends: tinny/base.yaml\n"))
    assert "no such folder" in text
    assert "tinny" in text


def test_projectors_are_trained_before_adapters(plain):
    stages = load_config(plain, f"{TALK} 'vlm.stages={{lora: {{}}, projector: {{}}}}'").vlm.stages
    assert list(stages) == ["projector", "lora"]


def test_missing_file_suggests_the_nearest_name(write, tmp_path):
    write("align.yaml", "name: x\n")
    assert "did you mean align.yaml?" in message(tmp_path / "aling.yaml")
    assert "['align.yaml']" in message(tmp_path / "zzz.yaml")
    assert "no such folder" in message(tmp_path / "nowhere" / "zzz.yaml")


def test_missing_parent_is_named(write):
    write("base.yaml", "name: x\n")
    text = message(write("child.yaml", "extends: bas.yaml\n"))
    assert "bas.yaml: no such config file; did you mean base.yaml?" in text


@pytest.mark.parametrize(
    "content",
    [
        b"- a\n- b\n",
        b"3\n",
        b"name: [1, 2\n",
        b"\tname: x\n",
        b"name: x\nname: y\n",
        b"name: \xff\xfe\n",
        b"name: x\nextends: 3\n",
        b"name: x\nextends: [a.yaml]\n",
        b"name: x\nseed: ${nowhere}\n",
    ],
)
def test_a_file_that_holds_no_config_is_named(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    assert "broken.yaml" in message(path)


def test_a_section_that_became_a_list_is_refused(write):
    write("parent.yaml", "name: x\ntrain: {lr: 1}\n")
    assert "child.yaml" in message(write("child.yaml", "extends: parent.yaml\ntrain: [1]\n"))


@pytest.mark.parametrize(
    "overrides",
    ["train.lr", "train.lr 3", "seed=1 --flag", "loss.dims=[8, 4]", 'name="x', "loss.dims=[8"],
)
def test_overrides_that_do_not_parse_are_refused(plain, overrides):
    assert message(plain, overrides).startswith("overrides: ")


# --- paths and digests -----------------------------------------------------------------------


def test_paths_resolve_against_the_repository(plain, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config(plain, "data.cache_dir=some/cache")
    assert config.data.cache_dir == ROOT / "some/cache"
    assert load_config(plain, "data.cache_dir=/abs").data.cache_dir == Path("/abs")
    assert load_config(plain).data.cache_dir == ROOT / "runs/cache"


def test_config_files_are_found_from_any_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config("params/tiny/align.yaml").name == "tiny"


@pytest.mark.parametrize("path", sorted((ROOT / "params").rglob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configs_load(path):
    assert load_config(path).name


def test_saved_config_reads_back_the_same(write):
    config = load_config(write("a.yaml", FULL), "train.lr=1e-5 train.betas=[0.8,0.9]")
    again = load_config(write("b.yaml", config.to_yaml()))
    assert again == config
    assert again.digest() == config.digest()


def test_digest_ignores_order_checkout_and_origin(write, plain):
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
def test_digest_changes_with_any_value(write, change):
    path = write("a.yaml", FULL)
    assert load_config(path, change).digest() != load_config(path).digest()


def test_a_key_that_comes_later_renames_no_run(write, monkeypatch):
    """A config without `fusion` is named as it was when there was no such section."""
    config = load_config(write("a.yaml", FULL), "fusion=null")
    before = config.digest()
    fields = {n: f for n, f in ExperimentConfig.model_fields.items() if n != "fusion"}
    monkeypatch.setattr(ExperimentConfig, "__pydantic_fields__", fields)
    assert config.digest() == before
    # but what is null where something else is the default is told
    quiet, plain = (load_config(write("b.yaml", FULL), o) for o in ("vision=null", "name=full"))
    assert "vision" in plain.model_dump(exclude_none=True)
    assert quiet.digest() != plain.digest()


def test_sections_are_not_shared_between_configs():
    one, two = ExperimentConfig(name="a"), ExperimentConfig(name="b")
    one.loss.dims.append(3)
    assert 3 not in two.loss.dims
