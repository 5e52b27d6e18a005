"""The vision-language experiment: two stages, resumed, on two processes, and what is made of it."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from edge_lib.config import ConfigError, load_config
from edge_lib.data.chat import Chat
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.experiments.align import train_aligner
from edge_lib.experiments.trimodal import train_fusions
from edge_lib.experiments.vlm import SPLITS, mean_loss, stream_config, train_vlm
from edge_lib.experiments.vlm_answers import generate_answers
from edge_lib.experiments.vlm_features import FusedFeatures, PicturesByRow, open_streams
from edge_lib.features.extract import extract_features
from edge_lib.models import Aligner
from edge_lib.models.vlm import VLM
from edge_lib.nn.decoders.language import load_tokenizer
from edge_lib.runs import Run
from edge_lib.sources import load_table
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.launch import launch

STAGE = "vlm.stages.{0}.batch_size=8 vlm.stages.{0}.max_steps=6 vlm.stages.{0}.eval_every=6 "
STAGE += "vlm.stages.{0}.checkpoint_every=3 vlm.stages.{0}.log_every=2 "
SMALL = (
    "data.conversations.train_scenes=20 data.conversations.val_scenes=6 "
    "data.conversations.test_scenes=8 data.conversations.per_scene=2 vlm.projector.tokens=2 "
    "vlm.language.lora.rank=4 vlm.max_length=400 vlm.max_new_tokens=8 "
) + "".join(map(STAGE.format, ("projector", "lora")))


@pytest.fixture(scope="module")
def make_config(aligner_folder, language_folder, small_align):
    """make_config("key=value ...") -> the tiny VLM config, cut to seconds, with its features."""
    where = f"data.cache_dir={small_align('').data.cache_dir} aligner.config=null "
    where += f"aligner.folder={aligner_folder} vlm.language.model={language_folder} "
    config = load_config("params/tiny/vlm.yaml", SMALL + where)
    extract_features(stream_config(config, aligner_folder), SPLITS)
    return lambda overrides="": load_config("params/tiny/vlm.yaml", SMALL + where + overrides)


@pytest.fixture(scope="module")
def first_stage(make_config, aligner_folder, tmp_path_factory):
    run = Run.create(make_config(), "vlm", tmp_path_factory.mktemp("stage"))
    results = launch(train_vlm, make_config(), "projector", aligner_folder, run.folder)
    return run, results[0]


def test_the_second_stage_goes_on_from_the_first(
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
    # what is frozen is in no checkpoint
    state = load_file(newest_checkpoint(run.checkpoints) / "model.safetensors")
    assert all(n.startswith("projectors.") or ".lora_" in n for n in state)


def test_killed_and_resumed_equals_uninterrupted(
    first_stage, make_config, aligner_folder, tmp_path
):
    """Adapters, their optimizer and their average alike."""
    config, start = make_config(), first_stage[0].checkpoints / "best"
    runs = {name: Run.create(config, "vlm", tmp_path / name) for name in ("whole", "killed")}
    for run in runs.values():
        launch(train_vlm, config, "lora", aligner_folder, run.folder, start)
    newest = newest_checkpoint(runs["killed"].checkpoints)
    shutil.rmtree(newest)  # as if it had been killed after the one before
    shutil.rmtree(runs["killed"].checkpoints / "best")
    launch(train_vlm, config, "lora", aligner_folder, runs["killed"].folder, start)
    for part in (f"{newest.name}/model", "best/projectors", "best/adapters"):
        a, b = (load_file(run.checkpoints / f"{part}.safetensors") for run in runs.values())
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_processes_train_like_one(make_config, aligner_folder, tmp_path):
    """Adapters too; in two batches an update, some of whose halves are about no image."""
    asked = [{"question": f"how many {n} ?", "response": "two"} for n in range(60)]
    pd.DataFrame(asked).to_json(tmp_path / "asked.jsonl", orient="records", lines=True)
    instructions = f"data.conversations.instructions.files.train=[{tmp_path / 'asked.jsonl'}]"
    how = "vlm.stages.lora.accumulation=2 vlm.stages.lora.batch_size=4"
    config, kept = make_config(f"{instructions} {how}"), {}
    extract_features(stream_config(config, aligner_folder), SPLITS[:1])
    for count in (1, 2):
        run = Run.create(config, "vlm", tmp_path / str(count))
        launch(train_vlm, config, "lora", aligner_folder, run.folder, num_processes=count)
        kept[count] = load_file(newest_checkpoint(run.checkpoints) / "model.safetensors")
    for name, one in kept[1].items():
        torch.testing.assert_close(one, kept[2][name], atol=2e-4, rtol=1e-3)


def test_a_stage_goes_on_in_four_bits(first_stage, make_config, aligner_folder, tmp_path):
    config = make_config("vlm.language.quantize=4bit")
    run, start = Run.create(config, "vlm", tmp_path), first_stage[0].checkpoints / "best"
    launch(train_vlm, config, "lora", aligner_folder, run.folder, start)
    loaded = VLM.from_pretrained(run.checkpoints / "best")
    projection = loaded.language.base_model.layers[0].mlp.up_proj
    assert type(projection.base_layer).__name__ == "Linear4bit"
    assert projection.lora_B["default"].weight.any()
    losses = [part.history()["val.loss"].dropna().iloc[-1] for part in (first_stage[0], run)]
    assert losses[1] < losses[0]


def test_an_aligner_without_the_stream_is_refused(make_config, aligner_folder):
    config = make_config("vlm.streams.audio=audio")
    with pytest.raises(ConfigError, match=r"an aligner without \['audio'\]"):
        stream_config(config, aligner_folder)


def test_as_many_vectors_as_a_clip_is_long_are_refused(make_config, small_trimodal, tmp_path):
    config = small_trimodal("audio.pooler=tokens fusion=null")
    widths = {"vision": (16, 16), "audio": (16, 16), "text": (384, 384)}
    Aligner(config, widths).save_pretrained(tmp_path / "aligner")
    hears = make_config("'vlm.streams={image: vision, audio: audio}'")
    with pytest.raises(ConfigError, match="as many vectors as a clip is long"):
        stream_config(hears, tmp_path / "aligner")


def test_a_model_that_is_not_shipped_is_refused_before_anything_is_encoded(
    make_config, aligner_folder
):
    config = make_config("vlm.language.model=tiny-qwen")
    with pytest.raises(ConfigError, match="tiny-qwen: no such backbone is shipped"):
        stream_config(config, aligner_folder)


# --- what it says ----------------------------------------------------------------------------


def test_each_conversation_is_asked_its_first_question_about_its_own_image(
    make_config, aligner_folder
):
    config = make_config()
    test = load_table(config.data, "chat-test")
    features = open_streams(config.vlm.streams, stream_config(config, aligner_folder), test)
    asked = []

    class Parrot:
        config = make_config().vlm
        chat = Chat(load_tokenizer(config.language), {"image": 1}, 60)

        def answer(self, messages, prefixes, **how):
            shown = prefixes["image"].pooled if prefixes else [None] * len(messages)
            asked.extend(zip([m[-1]["content"] for m in messages], shown, strict=True))
            return ["three"] * len(messages)

    found = {
        seen: generate_answers(Parrot(), test, features, seen, 4)
        for seen in ("own", "another", "none")
    }
    texts, pictures = zip(*asked, strict=True)
    talks, count = test.conversations, len(found["own"])
    assert count == len(talks.messages) == 16
    firsts = [messages[0]["content"] for messages in talks.messages]
    assert list(texts[:count]) == list(texts[count : 2 * count]) == firsts
    assert list(texts[2 * count :]) == [text.removeprefix("<image>\n") for text in firsts]
    own = features["image"].gather([picture for (picture,) in talks.pictures]).pooled
    assert torch.equal(torch.stack(pictures[:count]), own)
    another = torch.stack(pictures[count : 2 * count])
    assert not (another == own).all(1).any()
    assert found["own"].reference.tolist() == [m[1]["content"] for m in talks.messages]
    assert found["own"].em.mean() == np.mean([r == "three" for r in found["own"].reference])


# --- what it is asked ------------------------------------------------------------------------


def test_several_answers_are_scored_by_vqas_rule(make_config, aligner_folder, monkeypatch):
    config = make_config()
    test = load_table(config.data, "chat-test")
    features = open_streams(config.vlm.streams, stream_config(config, aligner_folder), test)
    answers = [["cat"] * 2 + ["dog"] * 8] * 4 + [None] * (len(test) - 4)
    column = test.column
    monkeypatch.setattr(test, "column", lambda n: answers if n == "answers" else column(n))
    found = generate_answers(Says("cat", config.vlm), test, features)
    assert found.vqa.tolist()[:4] == [pytest.approx(0.6)] * 4  # of ten, two agree
    assert found.vqa[4:].isna().all()
    assert found.em[:4].tolist() == [1.0] * 4


def test_one_alone_with_its_number_of_images_gets_no_others(make_config, aligner_folder):
    config = make_config()
    test = load_table(config.data, "chat-test")
    features = open_streams(config.vlm.streams, stream_config(config, aligner_folder), test)
    talks = test.conversations
    talks.messages[3] = [{"role": "user", "content": "<image> <image>"}, *talks.messages[3][1:]]
    talks.pictures[3] = talks.pictures[0] + talks.pictures[6]
    rows = [
        generate_answers(Says("two", config.vlm), test, features, seen).row
        for seen in ("own", "another")
    ]
    assert talks.rows[3] in set(rows[0])
    assert set(rows[0]) - set(rows[1]) == {talks.rows[3]}


class Says:
    """A model that always says the same."""

    def __init__(self, text, config):
        self.text, self.config = text, config
        self.chat = Chat(load_tokenizer(config.language), {"image": 1}, 60)

    def answer(self, messages, prefixes, **how):
        return [self.text] * len(messages)


@pytest.fixture(scope="module")
def hearing_folder(small_trimodal, tmp_path_factory):
    """The folder of a small aligner of vision and audio, with a concat fusion trained beside it."""
    about = "vision.pooler=perceiver vision.num_latents=3 fusion.strategies=[concat] "
    config = small_trimodal(about + "fusion.seeds=[0] train.epochs=1 fusion.train.epochs=1")
    extract_features(config)
    run = Run.create(config, "trimodal", tmp_path_factory.mktemp("hearing"))
    launch(train_aligner, config, run.folder)
    best = run.checkpoints / "best"
    launch(train_fusions, config, best, {0: run.part("fusion-0").folder})
    return best


@pytest.mark.parametrize(
    ("speech", "streams", "fusion"),
    [("question", "{image: vision, audio: audio}", "null"), ("true", "{image: fused}", "concat")],
)
def test_it_learns_from_clips(speech, streams, fusion, make_config, hearing_folder, tmp_path):
    """Heard beside the images, or fused with them."""
    config = make_config(
        f"aligner.folder={hearing_folder} data.conversations.speech={speech} "
        f"'vlm.streams={streams}' vlm.fusion={fusion}"
    )
    about = stream_config(config, hearing_folder)
    extract_features(about, SPLITS)
    run = Run.create(config, "vlm", tmp_path)
    launch(train_vlm, config, "projector", hearing_folder, run.folder)
    model = VLM.from_pretrained(run.checkpoints / "best")
    test = load_table(config.data, "chat-test")
    features = open_streams(config.vlm.streams, about, test)
    found = generate_answers(model, test, features)
    untrained = VLM.new(model.streams, config.vlm, {n: f.gather([0]) for n, f in features.items()})
    talks = ChatBatches(test.conversations, test, features, model.chat, 8, 0)
    losses = [mean_loss(some, talks) for some in (model, untrained)]
    assert losses[0] < losses[1]
    assert set(found.kind) == {"caption", "qa"} | ({"spoken"} if speech == "question" else set())
    assert model.projectors.keys() == config.vlm.streams.keys()


def test_a_picture_that_rows_share_is_fused_with_each_ones_own_clip():
    """The second row's picture is the first's, its clip its own; the third has none of its own."""
    vision = Lookup(torch.tensor([[10.0], [20.0]]), np.array([True, True]))
    audio = Lookup(torch.tensor([[1.0], [2.0], [0.0], [0.0]]), np.array([True, True, False, False]))
    pictures, clips = np.array([0, 0, 0, 1]), np.array([0, 1, 0, 3])
    fused = FusedFeatures(PicturesByRow(vision, pictures), audio, clips)
    assert fused.valid.tolist() == [True, True, True, False]
    found = fused.gather([2, 1, 0]).parts
    assert found["vision"].tolist() == [[10.0]] * 3
    assert found["audio"].tolist() == [[1.0], [2.0], [1.0]]


class Lookup:
    """Features that are a table of numbers."""

    def __init__(self, values, valid):
        self.values, self.valid = values, valid

    def gather(self, items):
        return self.values[items]
