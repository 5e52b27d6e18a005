"""The vision-language experiment: stages of training, and generated answers."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from edge_lib.config import ConfigError, TrainConfig
from edge_lib.data.chat import Chat
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.data.chat_store import open_tokenized
from edge_lib.data.conversations import read_conversations
from edge_lib.experiments import vlm_answers
from edge_lib.experiments.align import train_aligner
from edge_lib.experiments.trimodal import train_fusions
from edge_lib.experiments.vlm import CHAT_SPLITS, load_prefix_sources, mean_loss, train_vlm
from edge_lib.experiments.vlm_answers import generate_answers
from edge_lib.experiments.vlm_features import (
    FusedFeatures,
    ImagesByRow,
    open_prefix_features,
    prefix_spec,
)
from edge_lib.features.extract import write_features
from edge_lib.models import Aligner
from edge_lib.models.vlm import VLM
from edge_lib.nn.decoders.language import load_tokenizer
from edge_lib.runs import Run
from edge_lib.sources import load_table
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.launch import launch


@pytest.fixture(scope="module")
def make_config(make_vlm_config):
    return make_vlm_config


@pytest.fixture(scope="module")
def first_stage(make_config, aligner_folder, tmp_path_factory):
    run = Run.create(make_config(), "vlm", tmp_path_factory.mktemp("stage"))
    results = launch(train_vlm, make_config(), "projector", aligner_folder, run.folder)
    return run, results[0]


def test_lora_stage_continues_from_the_projector_stage(
    first_stage, make_config, aligner_folder, tmp_path
):
    start, first = first_stage[0].checkpoints / "best", first_stage[1]
    run = Run.create(make_config(), "vlm", tmp_path)
    [second] = launch(train_vlm, make_config(), "lora", aligner_folder, run.folder, start).values()
    losses = [part.history()["val.loss"].dropna() for part in (first_stage[0], run)]
    assert losses[1].iloc[-1] < losses[0].iloc[-1]
    assert second["parameters.trained"] > first["parameters.trained"]
    assert second["parameters"] == first["parameters"]
    before, after = (
        load_file(path / "adapters.safetensors") for path in (start, run.checkpoints / "best")
    )
    assert all(not before[n].any() for n in before if "lora_B" in n)
    assert all(after[n].any() for n in after if "lora_B" in n)
    state = load_file(newest_checkpoint(run.checkpoints) / "model.safetensors")
    assert all(n.startswith("projectors.") or ".lora_" in n for n in state)


def test_resumed_training_equals_uninterrupted_training(
    first_stage, make_config, aligner_folder, tmp_path
):
    """The same adapters, optimizer states and averaged weights."""
    config, start = make_config(), first_stage[0].checkpoints / "best"
    runs = {name: Run.create(config, "vlm", tmp_path / name) for name in ("whole", "killed")}
    for run in runs.values():
        launch(train_vlm, config, "lora", aligner_folder, run.folder, start)
    newest = newest_checkpoint(runs["killed"].checkpoints)
    shutil.rmtree(newest)  # as if the run had been killed after the checkpoint before
    shutil.rmtree(runs["killed"].checkpoints / "best")
    launch(train_vlm, config, "lora", aligner_folder, runs["killed"].folder, start)
    for part in (f"{newest.name}/model", "best/projectors", "best/adapters"):
        a, b = (load_file(run.checkpoints / f"{part}.safetensors") for run in runs.values())
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_processes_train_a_vlm_like_one(make_config, aligner_folder, tmp_path):
    """With two batches in each update; the share of one process may be without images."""
    questions = [{"question": f"how many {n} ?", "response": "two"} for n in range(60)]
    pd.DataFrame(questions).to_json(tmp_path / "text.jsonl", orient="records", lines=True)
    instructions = f"data.conversations.instructions.files.train=[{tmp_path / 'text.jsonl'}]"
    batches = "vlm.stages.lora.accumulation=2 vlm.stages.lora.batch_size=4"
    config, weights = make_config(f"{instructions} {batches}"), {}
    losses = {}
    write_features(config.data, prefix_spec(config, aligner_folder), CHAT_SPLITS[:1])
    for count in (1, 2):
        run = Run.create(config, "vlm", tmp_path / str(count))
        launch(train_vlm, config, "lora", aligner_folder, run.folder, num_processes=count)
        losses[count] = run.history()["loss"].dropna()
        weights[count] = load_file(newest_checkpoint(run.checkpoints) / "model.safetensors")
    for name, one in weights[1].items():
        torch.testing.assert_close(one, weights[2][name], atol=2e-4, rtol=1e-3)
    assert losses[1].to_numpy() == pytest.approx(losses[2].to_numpy(), rel=1e-3)


def test_lora_stage_trains_on_four_bit_weights(first_stage, make_config, aligner_folder, tmp_path):
    config = make_config("vlm.language.quantize=4bit")
    run, start = Run.create(config, "vlm", tmp_path), first_stage[0].checkpoints / "best"
    launch(train_vlm, config, "lora", aligner_folder, run.folder, start)
    loaded = VLM.from_pretrained(run.checkpoints / "best")
    projection = loaded.language.base_model.layers[0].mlp.up_proj
    assert type(projection.base_layer).__name__ == "Linear4bit"
    assert projection.lora_B["default"].weight.any()
    losses = [part.history()["val.loss"].dropna().iloc[-1] for part in (first_stage[0], run)]
    assert losses[1] < losses[0]


def test_prefix_spec_rejects_an_aligner_without_the_source(make_config, aligner_folder):
    config = make_config("vlm.prefix_sources.audio=audio")
    with pytest.raises(ConfigError, match=r"the aligner lacks \['audio'\]"):
        prefix_spec(config, aligner_folder)


def test_prefix_spec_rejects_audio_of_variable_length(make_config, small_trimodal, tmp_path):
    config = small_trimodal("audio.pooler=tokens fusion=null")
    widths = {"vision": (16, 16), "audio": (16, 16), "text": (384, 384)}
    Aligner(config.modalities, config.loss.dims, widths).save_pretrained(tmp_path / "aligner")
    with_audio = make_config("'vlm.prefix_sources={image: vision, audio: audio}'")
    with pytest.raises(ConfigError, match="pooler 'tokens' gives variable-length audio"):
        prefix_spec(with_audio, tmp_path / "aligner")


def test_prefix_spec_rejects_an_unknown_language_model(make_config, aligner_folder):
    config = make_config("vlm.language.model=tiny-qwen")
    with pytest.raises(
        ConfigError, match=r"tiny-qwen is not shipped; did you mean 'tiny-qwen2'\? shipped models: "
    ):
        prefix_spec(config, aligner_folder)


def test_prefix_sources_reject_a_fusion_that_was_not_trained(make_config, fusion_folder):
    config = make_config("'vlm.prefix_sources={image: fused}' vlm.fusion=gated")
    with pytest.raises(ConfigError, match="its run trained no fusion 'gated'"):
        load_prefix_sources(config, fusion_folder)


# --- generated answers -----------------------------------------------------------------------


@pytest.fixture
def chat_test(make_config, aligner_folder):
    """The vlm section, the test conversations, and the features of their images."""
    config = make_config()
    table = load_table(config.data, "chat-test")
    spec = prefix_spec(config, aligner_folder)
    return config.vlm, table, open_prefix_features(config.vlm.prefix_sources, spec, table)


class ConstantModel:
    """A stub that always gives the same answer and records each question with its images."""

    def __init__(self, text, config):
        self.text, self.inputs = text, []
        self.chat = Chat(load_tokenizer(config.language), {"image": 1}, 60)

    def answer_batch(self, messages, prefixes, **generate_kwargs):
        images = list(prefixes["image"].pooled) if prefixes else []
        for text in [conversation[-1]["content"] for conversation in messages]:
            count = text.count("<image>")
            self.inputs.append((text, images[:count]))
            del images[:count]
        assert not images
        return [self.text] * len(messages)


def test_generate_answers_asks_first_questions_with_and_without_images(chat_test):
    config, test, features = chat_test
    model = ConstantModel("three", config)
    answers = {
        images: generate_answers(model, test, features, images, 4)
        for images in ("own", "another", "none")
    }
    texts, images = zip(*model.inputs, strict=True)
    conversations, count = read_conversations(test), len(answers["own"])
    assert count == len(conversations.messages) == 16
    questions = [messages[0]["content"] for messages in conversations.messages]
    assert list(texts[:count]) == list(texts[count : 2 * count]) == questions
    assert list(texts[2 * count :]) == [text.removeprefix("<image>\n") for text in questions]
    own = features["image"].gather([row for (row,) in conversations.image_rows]).pooled
    assert torch.equal(torch.stack([image for (image,) in images[:count]]), own)
    another = torch.stack([image for (image,) in images[count : 2 * count]])
    assert not (another == own).all(1).any()
    references = answers["own"].reference.tolist()
    assert references == [m[1]["content"] for m in conversations.messages]
    assert answers["own"].em.mean() == np.mean([r == "three" for r in references])


def test_generate_answers_scores_several_references_by_the_vqa_rule(chat_test, monkeypatch):
    config, test, features = chat_test
    answers = [["cat"] * 2 + ["dog"] * 8] * 4 + [None] * (len(test) - 4)
    column = test.column
    monkeypatch.setattr(test, "column", lambda n: answers if n == "answers" else column(n))
    scores = generate_answers(ConstantModel("cat", config), test, features)
    assert scores.vqa.tolist()[:4] == [pytest.approx(0.6)] * 4  # two of ten agree
    assert scores.vqa[4:].isna().all()
    assert scores.em[:4].tolist() == [1.0] * 4


def test_generate_answers_exchanges_images_among_prompts_with_equally_many(chat_test, monkeypatch):
    config, test, features = chat_test
    conversations = read_conversations(test)
    question = {"role": "user", "content": "<image> <image>"}
    conversations.messages[3] = [question, *conversations.messages[3][1:]]
    conversations.image_rows[3] = conversations.image_rows[0] + conversations.image_rows[6]
    monkeypatch.setattr(vlm_answers, "read_conversations", lambda table: conversations)
    own, another = (
        set(generate_answers(ConstantModel("two", config), test, features, images).row)
        for images in ("own", "another")
    )
    assert conversations.rows[3] in own
    assert own - another == {conversations.rows[3]}


# --- audio and fusion ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fusion_folder(small_trimodal, tmp_path_factory):
    """The folder of a small aligner of vision and audio, whose run also trained a concat fusion."""
    overrides = "vision.pooler=perceiver vision.num_latents=3 fusion.strategies=[concat] "
    config = small_trimodal(overrides + "fusion.seeds=[0] train.epochs=1 fusion.train.epochs=1")
    write_features(config.data, config.feature_spec)
    run = Run.create(config, "trimodal", tmp_path_factory.mktemp("fusion"))
    launch(train_aligner, config, run.folder)
    best = run.checkpoints / "best"
    launch(train_fusions, config, best, {0: run.part("fusion-0").folder})
    return best


@pytest.mark.parametrize(
    ("speech", "sources", "fusion"),
    [
        ("question", "{image: vision, audio: audio}", "null"),
        ("true", "{image: fused}", "concat"),
    ],
    ids=["clips", "images fused with clips"],
)
def test_vlm_learns_from_clips(speech, sources, fusion, make_config, fusion_folder, tmp_path):
    config = make_config(
        f"aligner.folder={fusion_folder} data.conversations.speech={speech} "
        f"'vlm.prefix_sources={sources}' vlm.fusion={fusion}"
    )
    spec = prefix_spec(config, fusion_folder)
    write_features(config.data, spec, CHAT_SPLITS)
    run = Run.create(config, "vlm", tmp_path)
    launch(train_vlm, config, "projector", fusion_folder, run.folder)
    model = VLM.from_pretrained(run.checkpoints / "best")
    test = load_table(config.data, "chat-test")
    features = open_prefix_features(config.vlm.prefix_sources, spec, test)
    answers = generate_answers(model, test, features)
    examples = {name: source.gather([0]) for name, source in features.items()}
    untrained = VLM.new(model.prefix_sources, config.vlm.model, examples)
    tokenized = open_tokenized(test, model.chat, config.data.cache_dir)
    batches = ChatBatches(tokenized, features, TrainConfig(batch_size=8), 0)
    losses = [mean_loss(vlm, batches) for vlm in (model, untrained)]
    assert losses[0] < losses[1]
    kinds = {"caption", "qa"} | ({"spoken"} if speech == "question" else set())
    assert set(answers.kind) == kinds
    assert model.projectors.keys() == config.vlm.prefix_sources.keys()


def test_fused_features_pair_a_shared_image_with_the_clip_of_each_row():
    """Rows 0 to 2 share an image. Row 1 has a clip of its own; row 2 has none and uses row 0's."""
    vision = LookupFeatures(torch.tensor([[10.0], [20.0]]), np.array([True, True]))
    valid = np.array([True, True, False, False])
    audio = LookupFeatures(torch.tensor([[1.0], [2.0], [0.0], [0.0]]), valid)
    image_index, clips = np.array([0, 0, 0, 1]), np.array([0, 1, 0, 3])
    fused = FusedFeatures(ImagesByRow(vision, image_index), audio, clips)
    assert fused.valid.tolist() == [True, True, True, False]
    parts = fused.gather([2, 1, 0]).parts
    assert parts["vision"].tolist() == [[10.0]] * 3
    assert parts["audio"].tolist() == [[1.0], [2.0], [1.0]]


class LookupFeatures:
    """Features that are rows of a tensor."""

    def __init__(self, values, valid):
        self.values, self.valid = values, valid

    def gather(self, items):
        return self.values[items]
