"""Models on the Hub: upload, download, revisions, damaged files, and refusals in one line."""

import json
import shutil

import pytest
import torch
from fake_hub import TOKEN
from huggingface_hub import ModelCard
from PIL import Image

from edge_lib.config import (
    ROOT,
    ConfigError,
    DecoderConfig,
    FusionConfig,
    ModalityConfig,
    VLMModelConfig,
)
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.vocabulary import Vocabulary
from edge_lib.export.loading import load_model
from edge_lib.models import Aligner, Fuser, QAModel
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.models.vlm import VLM

WIDTHS = {"vision": (128, 128), "audio": (128, 128), "text": (384, 384)}
SHIPPED = {"vision": "tiny-resnet", "audio": "tiny-whisper", "text": "all-MiniLM-L6-v2"}
NAME = "org/name"


def make_aligner(*names, seed=0, **encoders):
    torch.manual_seed(seed)
    encoders = SHIPPED | encoders
    modalities = {name: ModalityConfig(encoder=encoders[name], width=16) for name in names}
    return Aligner(modalities, [16, 8], {name: WIDTHS[name] for name in names}).eval()


@pytest.fixture
def aligner():
    return make_aligner("vision", "text")


def equal(model, other):
    """Whether two models have the same weights."""
    state, others = model.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(
        torch.equal(x, others[n]) for n, x in state.items()
    )


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


# --- there and back ------------------------------------------------------------------------------


def test_aligner_comes_back_from_the_hub(fake_hub, aligner):
    url = aligner.push_to_hub(NAME)
    files = fake_hub.repositories[NAME].commits[url.oid]
    assert files.keys() == {"README.md", "aligner.json", "model.safetensors"}
    loaded = Aligner.from_pretrained(NAME)
    assert equal(loaded, aligner)
    assert not loaded.training
    assert url == f"{fake_hub.url}/{NAME}/commit/{url.oid}"


def test_loaded_model_is_that_of_the_revision(fake_hub, aligner):
    first = aligner.push_to_hub(NAME).oid
    second = make_aligner("vision", "text", seed=1)
    second.push_to_hub(NAME)
    third = make_aligner("vision", "text", seed=2)
    third.push_to_hub(NAME, branch="wide")
    expected = {None: second, "main": second, first: aligner, "wide": third}
    for revision, model in expected.items():
        loaded = Aligner.from_pretrained(NAME, revision=revision)
        assert equal(loaded, model), revision


def test_fuser_comes_back_with_its_aligner(fake_hub):
    config = FusionConfig(modalities=["vision", "audio"], strategies=["gated"], width=16)
    fuser = Fuser(make_aligner("vision", "audio", "text"), config).eval()
    commit = fuser.push_to_hub(NAME).oid
    files = set(fake_hub.repositories[NAME].commits[commit])
    nested = {"aligner/README.md", "aligner/aligner.json", "aligner/model.safetensors"}
    assert files == {"README.md", "fuser.json", "fusions.safetensors"} | nested
    assert equal(Fuser.from_pretrained(NAME), fuser)


def test_question_answerer_comes_back_with_its_vocabulary(fake_hub, aligner):
    vocabulary = Vocabulary.learn(["where is the red three?", "top left"], 100)
    config = DecoderConfig(width=16, heads=2)
    model = QAModel(aligner, "plain", config, vocabulary).eval()
    model.push_to_hub(NAME)
    loaded = QAModel.from_pretrained(NAME)
    image, question = Image.new("RGB", (64, 64), "red"), "where is the three?"
    assert loaded.vocabulary.encode([question]) == vocabulary.encode([question])
    assert loaded.answer(image, question) == model.answer(image, question)
    assert isinstance(load_model(NAME), QAModel)


def test_vlm_comes_back_with_adapters_and_chat(fake_hub):
    config = VLMModelConfig(language={"model": "tiny-qwen2", "lora": {"rank": 2}})
    tokens = torch.randn(1, 4, 128)
    features = EncoderOutput(tokens, torch.ones(1, 4, dtype=torch.bool), tokens.mean(1))
    sources = PrefixSources(make_aligner("vision"))
    model = VLM.new(sources, config, {"image": features}).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zero at first: without adapters the answers would be the same
                weight.normal_()
    commit = model.push_to_hub(NAME).oid
    loaded, image = VLM.from_pretrained(NAME), Image.new("RGB", (64, 64), "red")
    assert equal(loaded, model)
    files = fake_hub.repositories[NAME].commits[commit]
    assert not [path for path, content in files.items() if str(ROOT).encode() in content]
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    assert loaded.generate("what is it?", image, **options) == model.generate(
        "what is it?", image, **options
    )


def test_push_sends_the_card_of_the_loaded_weights(fake_hub, aligner, tmp_path):
    aligner.save_pretrained(tmp_path / "best")
    card = tmp_path / "best/README.md"
    card.write_text(card.read_text() + "\n## Results\n\nR@1 0.5\n")
    (tmp_path / "best/figures").mkdir()
    (tmp_path / "best/figures/recall.png").write_bytes(b"png")
    loaded = Aligner.from_pretrained(tmp_path / "best")
    commit = loaded.push_to_hub(NAME).oid
    files = fake_hub.repositories[NAME].commits[commit]
    assert files["figures/recall.png"] == b"png"
    assert "R@1 0.5" in files["README.md"].decode()
    assert f'Aligner.from_pretrained("{NAME}")' in files["README.md"].decode()
    # again from the Hub, to another name
    Aligner.from_pretrained(NAME).push_to_hub("org/copy")
    assert "R@1 0.5" in str(ModelCard.load("org/copy"))
    assert 'from_pretrained("org/copy")' in str(ModelCard.load("org/copy"))


def test_card_of_other_weights_is_not_kept(aligner, tmp_path):
    aligner.save_pretrained(tmp_path / "best")
    card = tmp_path / "best/README.md"
    card.write_text(card.read_text() + "\n## Results\n\nR@1 0.5\n")
    loaded = Aligner.from_pretrained(tmp_path / "best")
    with torch.no_grad():
        next(loaded.heads.parameters()).add_(1)
    loaded.save_pretrained(tmp_path / "trained further")
    assert "R@1 0.5" not in (tmp_path / "trained further/README.md").read_text()


def test_download_takes_no_file_that_could_run_code(fake_hub, aligner):
    commit = aligner.push_to_hub(NAME).oid
    files = fake_hub.repositories[NAME].commits[commit]
    files |= {"model.bin": b"pickle", "code.py": b"raise SystemExit", "aligner/x.pt": b"pickle"}
    folder = Aligner.from_pretrained(NAME).source
    assert not [*folder.rglob("*.bin"), *folder.rglob("*.py"), *folder.rglob("*.pt")]


def test_cached_model_loads_without_the_hub(fake_hub, aligner):
    aligner.push_to_hub(NAME)
    Aligner.from_pretrained(NAME)
    fake_hub.statuses["."] = 503
    for options in ({}, {"local_files_only": True}):
        loaded = Aligner.from_pretrained(NAME, **options)
        assert equal(loaded, aligner)


# --- damaged files -------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "aligner.json", "README.md"])
def test_damaged_download_is_refused_until_it_is_repeated(fake_hub, aligner, file):
    aligner.push_to_hub(NAME)
    fake_hub.damaged[file] = flip
    message = f"^{NAME}: {file} is damaged; load it with force_download=True$"
    for _ in range(2):  # now from the cache
        with pytest.raises(ConfigError, match=message):
            Aligner.from_pretrained(NAME)
    fake_hub.damaged.clear()
    loaded = Aligner.from_pretrained(NAME, force_download=True)
    assert equal(loaded, aligner)


def test_file_damaged_before_upload_is_refused(fake_hub, aligner):
    commit = aligner.push_to_hub(NAME).oid
    files = fake_hub.repositories[NAME].commits[commit]
    files["model.safetensors"] = flip(files["model.safetensors"])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged: its content is not"):
        Aligner.from_pretrained(NAME)


@pytest.mark.parametrize(
    "change",
    [flip, lambda x: x[:-1], lambda x: x[:4], lambda x: b""],
    ids=["flipped bit", "without its last byte", "four bytes", "empty"],
)
def test_damaged_weights_of_a_folder_are_refused(aligner, tmp_path, change):
    aligner.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match=rf"^{path} is damaged"):
        Aligner.from_pretrained(tmp_path)


def test_clone_without_git_lfs_is_explained(aligner, tmp_path):
    aligner.save_pretrained(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3686448\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(ConfigError, match="is damaged: run `git lfs pull`"):
        Aligner.from_pretrained(tmp_path)


def test_folder_without_its_weights_is_refused(aligner, tmp_path):
    aligner.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing: copy the whole folder"):
        Aligner.from_pretrained(tmp_path)


def test_damaged_weights_saved_without_digests_are_refused(aligner, tmp_path):
    aligner.save_pretrained(tmp_path)
    metadata = json.loads((tmp_path / "aligner.json").read_text())
    del metadata["sha256"]
    (tmp_path / "aligner.json").write_text(json.dumps(metadata))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=rf"^{path} is damaged"):
        Aligner.from_pretrained(tmp_path)


def test_damaged_metadata_names_its_file(aligner, tmp_path):
    aligner.save_pretrained(tmp_path)
    path = tmp_path / "aligner.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ConfigError, match=rf"^{path} is damaged"):
        Aligner.from_pretrained(tmp_path)


# --- refusals ------------------------------------------------------------------------------------


def refusal(function, *arguments, **options):
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("token", [TOKEN, "hf_other"])
def test_missing_repository_is_refused_in_one_line(fake_hub, token):
    line = refusal(Aligner.from_pretrained, "org/missing", token=token)
    assert line.startswith(
        "org/missing is neither shipped nor a folder; from the Hub: no such model"
    )
    assert "hf auth login" in line


def test_private_repository_needs_its_token(fake_hub, aligner):
    aligner.push_to_hub(NAME, private=True)
    assert "or a private one; log in" in refusal(Aligner.from_pretrained, NAME, token="hf_other")
    assert Aligner.from_pretrained(NAME, token=TOKEN).width == 16


def test_gated_repository_is_refused_in_one_line(fake_hub, aligner):
    aligner.push_to_hub(NAME)
    fake_hub.gated.add(NAME)
    assert "access is gated; ask for it" in refusal(Aligner.from_pretrained, NAME)


def test_name_near_that_of_a_shipped_model_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(Aligner.from_pretrained, "tiny-aling")
    assert line == "tiny-aling is neither shipped nor a folder; did you mean 'tiny-align'?"


def test_missing_revision_is_named(fake_hub, aligner):
    aligner.push_to_hub(NAME)
    assert refusal(Aligner.from_pretrained, NAME, revision="v9").endswith("no revision 'v9'")


@pytest.mark.parametrize(
    ("status", "reason"),
    [(429, "HTTP status 429; too many requests"), (503, "HTTP status 503; try again later")],
)
def test_refused_request_gives_its_status(fake_hub, aligner, status, reason):
    aligner.push_to_hub(NAME)
    fake_hub.statuses["^/api/models"] = status
    assert refusal(Aligner.from_pretrained, NAME).endswith(reason)
    fake_hub.statuses = {"^/api/repos": status}
    assert refusal(aligner.push_to_hub, NAME).endswith(reason)


def test_unreachable_hub_is_refused_in_one_line(fake_hub, monkeypatch, aligner):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    line = refusal(Aligner.from_pretrained, NAME)
    assert line.endswith("not reachable, and not in the local cache")
    assert refusal(aligner.push_to_hub, NAME).endswith("not reachable")


def test_offline_mode_is_named(fake_hub, monkeypatch, aligner):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refusal(Aligner.from_pretrained, NAME)
    assert line.endswith("not reachable, and not in the local cache")
    assert "offline mode" in refusal(aligner.push_to_hub, NAME)
    assert not fake_hub.requests


@pytest.mark.parametrize("name", ["org/na..me", "org/-name", "org/name.git"])
def test_name_that_the_hub_forbids_is_refused_in_one_line(fake_hub, aligner, name):
    assert name in refusal(Aligner.from_pretrained, name)
    assert name in refusal(aligner.push_to_hub, name)
    assert not fake_hub.repositories


def test_repository_of_another_model_is_refused(fake_hub, aligner):
    aligner.push_to_hub(NAME)
    assert "has no qa.json, but aligner.json" in refusal(QAModel.from_pretrained, NAME)


def test_pull_request_and_branch_exclude_each_other(fake_hub, aligner):
    line = refusal(aligner.push_to_hub, NAME, branch="wide", create_pr=True)
    assert "Cannot use `create_pr=True` with `revision='wide'`" in line


def test_push_without_access_is_refused_in_one_line(fake_hub, aligner):
    fake_hub.statuses["^/api/repos"] = 403
    assert "your token does not allow this" in refusal(aligner.push_to_hub, NAME)


def test_push_refuses_an_encoder_of_this_machine(fake_hub, tiny_vision, tmp_path):
    aligner = make_aligner("vision", "text", vision=str(tiny_vision))
    assert f"others cannot load vision {tiny_vision}" in refusal(aligner.push_to_hub, NAME)
    assert not fake_hub.requests
    aligner.save_pretrained(tmp_path)
    assert str(tiny_vision.parent) not in (tmp_path / "README.md").read_text()


# --- what a name means ---------------------------------------------------------------------------


def test_folder_comes_before_the_hub(fake_hub, aligner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    aligner.push_to_hub(NAME)
    other = make_aligner("vision", "text", seed=1)
    other.save_pretrained(NAME)
    fake_hub.requests.clear()
    assert equal(Aligner.from_pretrained(NAME), other)
    assert not fake_hub.requests
    assert "only models of the Hub have a revision" in refusal(
        Aligner.from_pretrained, NAME, revision="main"
    )
    shutil.rmtree(NAME)
    assert equal(Aligner.from_pretrained(NAME), aligner)


@pytest.mark.parametrize("name", ["name", "./org/name", "runs/a/best", "/org/name"])
def test_path_is_not_looked_up_on_the_hub(fake_hub, name):
    with pytest.raises(FileNotFoundError, match="no saved model"):
        Aligner.from_pretrained(name)
    assert not fake_hub.requests
