"""Folders of saved models that are damaged, incomplete or unreadable: refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edge_lib.__main__ import main
from edge_lib.config import ConfigError, DecoderConfig, ModalityConfig
from edge_lib.data.vocabulary import Vocabulary
from edge_lib.models import Aligner, QAModel


def make_aligner():
    config = ModalityConfig(encoder="tiny-resnet", width=16)
    return Aligner({"vision": config}, [16, 8], {"vision": (128, 128)})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qa")
    vocabulary = Vocabulary.learn(["where is the red three?"], 60)
    config = DecoderConfig(width=16, heads=2)
    QAModel(make_aligner(), "plain", config, vocabulary).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "qa")


def edit(path, change):
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def forget_digests(folder):
    """As an older version saved it."""
    for path in (folder / "qa.json", folder / "aligner/aligner.json"):
        edit(path, lambda metadata: metadata.pop("sha256"))


def refusal(folder):
    with pytest.raises(ConfigError) as error:
        QAModel.from_pretrained(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_digests_name_all_files_but_those_of_the_aligner(folder):
    digests = json.loads((folder / "qa.json").read_text())["sha256"]
    assert digests.keys() == {"qa.json", "model.safetensors", "tokenizer.json"}
    assert QAModel.from_pretrained(folder).source == folder


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged: its content is not"),
        (Path.unlink, "is missing: copy the whole folder"),
    ],
    ids=["truncated", "missing"],
)
def test_damaged_file_is_named(folder, file, damage, line):
    damage(folder / file)
    assert refusal(folder).startswith(f"{folder / file} {line}")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("tokenizer.json", lambda path: path.write_text("{}")),
        ("tokenizer.json", Path.unlink),
        ("model.safetensors", Path.unlink),
        ("model.safetensors", lambda path: save_file({"x": torch.zeros(2)}, path)),
        ("aligner", shutil.rmtree),
        ("qa.json", lambda path: path.write_text("{}")),
        ("aligner/aligner.json", lambda path: edit(path, lambda x: x.pop("widths"))),
        ("aligner/aligner.json", lambda path: edit(path, lambda x: x.update(modalities=[]))),
        ("aligner/aligner.json", lambda path: edit(path, lambda x: x.update(unknown=1))),
    ],
    ids=[
        "tokenizer damaged",
        "tokenizer missing",
        "weights missing",
        "other weights",
        "aligner missing",
        "no keys",
        "key missing",
        "list",
        "unknown key",
    ],
)
def test_folder_saved_without_digests_is_refused_in_one_line(folder, file, damage):
    forget_digests(folder)
    damage(folder / file)
    assert refusal(folder).startswith(f"{folder}")
    assert " cannot be loaded: " in refusal(folder)


def test_metadata_that_were_edited_are_used_with_a_warning(folder, caplog):
    path = folder / "aligner/aligner.json"
    edit(path, lambda metadata: None)  # written with other spaces
    assert QAModel.from_pretrained(folder)
    assert not caplog.records
    edit(path, lambda metadata: metadata.update(precision="bf16"))
    assert QAModel.from_pretrained(folder)
    assert f"{path} is not as it was saved: edited, or damaged" in caplog.text


@pytest.mark.parametrize("content", ["[]", "null", '"text"'])
def test_metadata_that_are_no_object_are_refused(folder, content):
    (folder / "qa.json").write_text(content)
    assert refusal(folder) == f"{folder / 'qa.json'} is damaged: no JSON object"


@pytest.mark.parametrize("file", ["qa.json", "model.safetensors", "aligner/aligner.json"])
def test_file_without_rights_is_refused(folder, file, monkeypatch):
    def refuse(path, *args, original=Path.open, **kwargs):
        if path == folder / file:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(folder) == f"{folder / file} cannot be read: Permission denied"


def test_folder_without_rights_is_one_line_of_the_command(monkeypatch, capsys):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    assert main(["serve", "/a/run", "--port", "0"]) == 2
    assert capsys.readouterr().err == "/a/run: Permission denied\n"


def test_untrained_aligner_of_damaged_metadata_is_refused(folder):
    edit(folder / "aligner/aligner.json", lambda metadata: metadata.pop("widths"))
    with pytest.raises(ConfigError, match=r"cannot be loaded: KeyError: 'widths'$"):
        Aligner.untrained(folder / "aligner")
