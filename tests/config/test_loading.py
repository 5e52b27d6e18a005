"""Config files: merging, paths, and files that cannot be read."""

from pathlib import Path

import pytest
import torch

from edge_lib.config import ROOT, ConfigError, ExperimentConfig, load_config


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


def test_null_removes_inherited_section(write):
    write("a.yaml", "name: a\ntext: {encoder: x}\nvision: {encoder: y}\n")
    config = load_config(write("b.yaml", "extends: a.yaml\ntext: null\n"))
    assert list(config.modalities) == ["vision"]


@pytest.mark.parametrize("loop", [("a",), ("a", "b"), ("a", "b", "c")], ids="".join)
def test_extends_rejects_cycle(message, write, loop):
    for name, parent in zip(loop, (*loop[1:], loop[0]), strict=True):
        path = write(f"{name}.yaml", f"name: x\nextends: {parent}.yaml\n")
    text = message(path)
    assert "extends itself" in text
    assert all(f"{name}.yaml" in text for name in loop)


def test_extends_accepts_shared_base(write):
    write("base.yaml", "name: x\n")
    write("mid.yaml", "extends: base.yaml\n")
    assert load_config(write("top.yaml", "extends: mid.yaml\n")).name == "x"


def test_extends_names_missing_folder(message, write):
    text = message(write("child.yaml", "extends: tinny/base.yaml\n"))
    assert "no such folder" in text
    assert "tinny" in text


def test_needed_keys_must_be_set(message, write):
    path = write("a.yaml", "name: a\nqa: {}\n")
    assert load_config(path, "", "qa").qa is not None
    with pytest.raises(ConfigError) as caught:
        load_config(path, "seed=1", "modalities", "qa", "backbones.vision", "evaluate.dims")
    keys = "vision or audio or text, backbones.vision, evaluate.dims"
    assert str(caught.value) == f"{path}: this needs {keys}, which the config lacks"


def test_missing_file_suggests_nearest_name(message, write, tmp_path):
    write("align.yaml", "name: x\n")
    assert "did you mean align.yaml?" in message(tmp_path / "aling.yaml")
    assert message(tmp_path / "zzz.yaml").endswith("no such config file; available: align.yaml")
    assert "no such folder" in message(tmp_path / "nowhere" / "zzz.yaml")


def test_extends_names_missing_file(message, write):
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
        b"name: x\nseed: ${nowhere\n",
    ],
    ids=[
        "list",
        "number",
        "open-bracket",
        "tab",
        "duplicate-key",
        "not-utf8",
        "extends-number",
        "extends-list",
        "unknown-reference",
        "open-reference",
    ],
)
def test_invalid_file_is_named_in_one_line(message, tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    text = message(path)
    assert text.startswith(f"{path}:")
    assert len(text.splitlines()) == 1


def test_yaml_error_names_line(write, message):
    path = write("broken.yaml", "name: x\nname: y\n")
    assert message(path) == f"{path}:2: not valid YAML: found duplicate key name"


def test_folder_as_config_lists_its_files(write, message, tmp_path):
    write("b.yaml", "name: x\n")
    write("a.yaml", "name: x\n")
    expected = f"{tmp_path}: is a folder, not a config file; available: a.yaml, b.yaml"
    assert message(tmp_path) == expected


def test_paths_resolve_against_repository(plain, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config(plain, "data.cache_dir=some/cache")
    assert config.data.cache_dir == ROOT / "some/cache"
    assert load_config(plain, "data.cache_dir=/abs").data.cache_dir == Path("/abs")
    assert load_config(plain).data.cache_dir == ROOT / "runs/cache"


def test_config_files_resolve_against_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config("params/tiny/align.yaml").name == "tiny"


@pytest.mark.parametrize(
    "path", [str(p.relative_to(ROOT)) for p in sorted((ROOT / "params").rglob("*.yaml"))]
)
def test_shipped_configs_load(path):
    assert load_config(path).name


def test_saved_config_loads_unchanged(write, full):
    config = load_config(full, "train.lr=1e-5 train.betas=[0.8,0.9]")
    again = load_config(write("b.yaml", config.to_yaml()))
    assert again == config
    assert again.digest() == config.digest()


def test_default_sections_are_not_shared():
    one, two = ExperimentConfig(name="a"), ExperimentConfig(name="b")
    one.loss.dims.append(3)
    assert 3 not in two.loss.dims


OWN = "name: own\ndata: {source: folder, folder: {path: a}}\n"
TABLE = "{train: [a.csv], val: [b.csv], test: [c.csv]}"


def test_section_of_a_source_that_is_not_chosen_is_an_error(message, write):
    own = write("own.yaml", OWN)
    child = write("child.yaml", f"extends: own.yaml\ndata: {{table: {TABLE}}}\n")
    error = "data.table is set, but data.source is 'folder'"
    assert message(child) == f"{child}: {error}"
    assert message(own, f"'data.table={TABLE}'") == f"overrides: {error}"
    questions = message(own, f"'data.questions.table={TABLE}'")
    assert questions == (
        "overrides: data.questions.table is set, but data.questions.source is 'scenes'"
    )


def test_sections_of_sources_stay_where_another_is_chosen(write):
    own = write("own.yaml", OWN)
    child = write("child.yaml", f"extends: own.yaml\ndata: {{source: table, table: {TABLE}}}\n")
    for path, overrides in [
        (child, ""),
        (child, "data.source=folder"),
        (own, f"data.source=table 'data.table={TABLE}'"),
        (own, f"data.source=folder 'data.table={TABLE}'"),
        (own, "'data.conversations.instructions={files: {train: [a.jsonl]}}'"),
    ]:
        load_config(path, overrides)


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
def test_precision_of_the_aligner_is_that_of_the_machine_that_loads_the_config(
    write, monkeypatch, bf16
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16})
    own = write("align.yaml", "name: own\nfeatures: {precision: auto}\n")
    path = write("reader.yaml", f"name: reader\naligner: {{config: {own}, overrides: seed=3}}\n")
    config = load_config(path)
    trained = load_config(own, "seed=3").digest()
    assert load_config(own, config.aligner.overrides).digest() == trained
    saved = write("config.yaml", config.to_yaml())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not bf16})
    assert load_config(own, "seed=3").digest() != trained
    again = load_config(saved)
    assert again.digest() == config.digest()
    assert load_config(own, again.aligner.overrides).digest() == trained


@pytest.mark.parametrize(
    "content",
    ["name: x\n", "name: x\nfeatures: {precision: bf16}\n", "features: [1]\n", "a: [\n", None],
    ids=["default", "named", "list", "not YAML", "missing"],
)
def test_overrides_of_the_aligner_stay_where_its_precision_is_not_auto(write, content):
    own = write("align.yaml", content) if content else "missing.yaml"
    path = write("reader.yaml", f"name: reader\naligner: {{config: {own}}}\n")
    assert load_config(path).aligner.overrides == ""
