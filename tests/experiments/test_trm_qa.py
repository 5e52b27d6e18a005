"""Questions answered over a frozen aligner: batches, loss, training, answers."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from edge_lib.config import ConfigError, load_config
from edge_lib.data.qa_batches import QABatches
from edge_lib.data.vocabulary import EOS, PAD
from edge_lib.experiments import recursion as steps
from edge_lib.experiments.trm_qa import (
    SPLITS,
    answer_table,
    learn_vocabulary,
    majority_table,
    measure_decoder,
    train_decoder,
    vision_config,
)
from edge_lib.features.extract import extract_features
from edge_lib.features.online import open_features
from edge_lib.features.store import open_store
from edge_lib.metrics.answers import exact_match
from edge_lib.models import Aligner, QAModel
from edge_lib.runs import Run
from edge_lib.sources import load_table
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.launch import launch

SMALL = (
    "data.questions.train_scenes=40 data.questions.val_scenes=6 data.questions.test_scenes=6 "
    "data.questions.per_scene=4 qa.plain.width=16 qa.trm.width=16 qa.plain.heads=2 qa.trm.heads=2 "
    "qa.plain.layers=2 qa.trm.inner_steps=2 qa.questions_per_image=4 qa.train.batch_size=32 "
    "qa.train.epochs=2 qa.train.eval_every=5 qa.train.checkpoint_every=3 qa.curriculum=null "
)


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def make_config(aligner_folder, small_align):
    """make_config("key=value ...") -> the tiny QA config, cut to seconds, with its features."""
    cache = small_align("").data.cache_dir

    def make(overrides=""):
        where = f"data.cache_dir={cache} aligner.config=null aligner.folder={aligner_folder} "
        return load_config("params/tiny/trm_qa.yaml", SMALL + where + overrides)

    extract_features(vision_config(make(), aligner_folder), SPLITS)
    return make


@pytest.fixture(scope="module")
def parts(make_config, aligner_folder):
    """Config, train table, its features and vocabulary."""
    config = make_config()
    train = load_table(config.data, "qa-train")
    features = open_features(vision_config(config, aligner_folder), train)["vision"]
    return config, train, features, learn_vocabulary(config, train)


def batches_of(parts, **changes):
    config, train, features, vocabulary = parts
    return QABatches(train, features, vocabulary, config, config.qa.train, **changes)


def new_model(parts, aligner_folder, arm="trm"):
    config, *_, vocabulary = parts
    torch.manual_seed(0)
    return QAModel.new(Aligner.from_pretrained(aligner_folder), arm, config, vocabulary)


# --- batches ---------------------------------------------------------------------------------


def test_a_batch_holds_images_with_their_questions_and_ended_answers(parts):
    _, train, features, vocabulary = parts
    batches = batches_of(parts)
    batch = batches[0]
    rows = [train.ids.index(name) for name in batches.ids(0)]
    pictures = train.pictures[rows].reshape(8, 4)
    assert (pictures == pictures[:, :1]).all()  # four questions to an image
    assert torch.equal(batch.images.pooled, features.gather(pictures[:, 0]).pooled)
    texts = dict(zip(train.questions.rows, train.questions.texts, strict=True))
    answers = dict(zip(train.questions.rows, train.questions.answers, strict=True))
    assert vocabulary.decode(batch.question_ids) == [texts[row] for row in rows]
    assert vocabulary.decode(batch.answer_ids) == [answers[row][0] for row in rows]
    assert ((batch.answer_ids == EOS).sum(1) == 1).all()


def test_an_epoch_asks_about_every_image_once_and_two_ranks_share_each_batch(parts):
    batches = batches_of(parts)
    seen = [name for step in range(batches.steps_per_epoch) for name in batches.ids(step)]
    assert len(set(seen)) == len(seen) == 160
    halves = [batches_of(parts, rank=rank, world_size=2)[3] for rank in (0, 1)]
    together = torch.cat([half.images.pooled for half in halves])
    assert torch.equal(together, batches[3].images.pooled)


def test_fewer_images_by_config_and_what_does_not_fit_is_said(parts, make_config):
    _, train, features, vocabulary = parts

    def steps(overrides):
        config = make_config(overrides)
        return QABatches(train, features, vocabulary, config, config.qa.train).steps_per_epoch

    assert steps("qa.scenes=16") == 2
    with pytest.raises(ConfigError, match="do not fill one batch"):
        steps("qa.scenes=4")
    with pytest.raises(ConfigError, match=r"qa\.train\.batch_size=30 does not divide"):
        steps("qa.train.batch_size=30")


def test_at_first_the_curriculums_kinds_are_asked_alone(parts, make_config):
    _, train, features, vocabulary = parts
    kind_of = dict(zip(train.questions.rows, train.questions.kinds, strict=True))

    def batches(kinds):
        config = make_config(f"'qa.curriculum={{kinds: {kinds}, steps: 2}}'")
        return QABatches(train, features, vocabulary, config, config.qa.train)

    asked = batches("[colour, digit, position, count]")
    kinds = [{kind_of[train.ids.index(name)] for name in asked.ids(step)} for step in range(3)]
    assert kinds[0] | kinds[1] <= {"colour", "digit", "position", "count"} < kinds[2]
    with pytest.raises(ConfigError, match="no question is of kind colours; there are chain1"):
        batches("[colours, digit]")


def test_images_that_do_not_decode_are_left_out(parts):
    _, _, features, _ = parts
    valid = features.valid.copy()
    features.valid[5] = False
    try:
        batches = batches_of(parts)
    finally:
        features.valid[:] = valid
    assert 5 not in batches.pictures
    assert len(batches.pictures) == 39


# --- loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["plain", "trm"])
def test_loss_counts_answer_tokens_alone(arm, parts, aligner_folder):
    model, batch = new_model(parts, aligner_folder, arm), batches_of(parts)[0]
    prefix = model.prefix(batch.images)
    logits = model.decoder(*prefix, batch.question_ids, batch.answer_ids)
    picked = [
        F.cross_entropy(row[place], ids[place])
        for row, ids in zip(logits, batch.answer_ids, strict=True)
        for place in range(len(ids))
        if ids[place] != PAD
    ]
    torch.testing.assert_close(model(batch), torch.stack(picked).mean())
    batch.answer_ids = torch.cat([batch.answer_ids, torch.full((32, 3), PAD)], 1)
    torch.testing.assert_close(model(batch), torch.stack(picked).mean())


def test_only_the_decoder_is_trained(parts, aligner_folder):
    model = new_model(parts, aligner_folder).train()
    model(batches_of(parts)[0]).backward()
    assert not model.aligner.training
    assert all(p.grad is None for p in model.aligner.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())


# --- training and answers --------------------------------------------------------------------


def test_killed_and_resumed_equals_uninterrupted(make_config, aligner_folder, tmp_path):
    """Weights and their average alike; the average is what is kept as best."""
    config = make_config("qa.train.eval_every=1000")  # at the end alone
    runs = {name: Run.create(config, "qa", tmp_path / name) for name in ("whole", "killed")}
    for run in runs.values():
        launch(train_decoder, config, "trm", aligner_folder, run.folder)
    newest = newest_checkpoint(runs["killed"].checkpoints)
    shutil.rmtree(newest)  # as if it had been killed after the one before
    shutil.rmtree(runs["killed"].checkpoints / "best")
    state = next(runs["killed"].checkpoints.glob("step-*")) / "custom_checkpoint_1.pkl"
    progress = torch.load(state)
    torch.save(progress | {"best": -1.0}, state)
    launch(train_decoder, config, "trm", aligner_folder, runs["killed"].folder)
    kept = {}
    for part in ("best", newest.name):
        a, b = (load_file(run.checkpoints / part / "model.safetensors") for run in runs.values())
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
        kept[part] = a
    raw = kept[newest.name]
    assert not all(torch.equal(x, raw[f"decoder.{name}"]) for name, x in kept["best"].items())


@pytest.mark.parametrize("overrides", ["", "qa.vision=false"])
def test_two_processes_train_like_one(overrides, make_config, aligner_folder, tmp_path):
    config = make_config(f"qa.train.epochs=1 {overrides}")
    kept = {}
    for count in (1, 2):
        run = Run.create(config, "qa", tmp_path / str(count))
        launch(train_decoder, config, "trm", aligner_folder, run.folder, num_processes=count)
        kept[count] = load_file(newest_checkpoint(run.checkpoints) / "model.safetensors")
    for name, one in kept[1].items():
        torch.testing.assert_close(one, kept[2][name], atol=2e-4, rtol=1e-3)


def test_saved_and_loaded_gives_the_same_answers(parts, make_config, aligner_folder, tmp_path):
    model = new_model(parts, aligner_folder).eval()
    model.save_pretrained(tmp_path / "model")
    again = QAModel.from_pretrained(tmp_path / "model")
    config, train, *_ = parts
    store = open_store(vision_config(config, aligner_folder), "vision", train)
    first, second = (answer_table(m, train, store, config) for m in (model, again))
    assert first.equals(second)
    assert len(first) == len(train)


def test_answers_stand_beside_their_own_questions(parts, aligner_folder):
    """A model that always says what was asked about is scored where it was asked."""
    config, train, *_ = parts
    store = open_store(vision_config(config, aligner_folder), "vision", train)

    class Parrot:
        decoder = new_model(parts, aligner_folder).decoder

        def answer(self, images, questions, max_tokens):
            return [question.split()[-1] for question in questions]

    found = answer_table(Parrot(), train, store, config)
    texts = dict(zip(train.questions.rows, train.questions.texts, strict=True))
    assert [texts[row.row].split()[-1] for row in found.itertuples()] == found.answer.tolist()
    assert found.row.tolist() == sorted(found.row)
    expected = [exact_match(row.answer, [row.reference]) for row in found.itertuples()]
    assert found.em.tolist() == expected


def test_steps_end_in_the_answer_and_look_at_the_prefix(parts, aligner_folder):
    _, train, features, _ = parts
    model = new_model(parts, aligner_folder).eval()
    images, asked = features.gather([0, 1]), train.questions.texts[:4]
    by_step = steps.answers_by_step(model, images, asked, 6)
    assert len(by_step) == 2  # inner steps
    assert by_step[-1] == model.answer(images, asked, 6)
    assert by_step[0] != by_step[1]
    maps = steps.attention_by_step(model, images, asked, 6)
    assert maps.shape == (2, 4, 3)  # 3 prefix vectors
    assert (maps > 0).all()
    assert (maps.sum(-1) < 1).all()  # the question and the answer take the rest
    swapped = steps.attention_by_step(model, features.gather([1, 0]), asked, 6)
    assert not torch.equal(maps, swapped)
    assert model.decoder.stack.layers[-1].seen is None


def test_the_majority_answer_knows_only_the_kind(parts):
    _, train, *_ = parts
    found = majority_table(train, train)
    asked = train.questions
    for kind in set(asked.kinds):
        answers = [a[0] for a, k in zip(asked.answers, asked.kinds, strict=True) if k == kind]
        most = max(answers.count(answer) for answer in answers) / len(answers)
        assert found[found.kind == kind].em.mean() == pytest.approx(most)


def test_without_vision_the_image_changes_nothing(make_config, aligner_folder, parts):
    _, _, _, vocabulary = parts
    batch = batches_of(parts)[0]
    changed = {}
    for vision in ("true", "false"):
        config = make_config(f"qa.vision={vision} qa.use_trm=true")
        torch.manual_seed(0)
        model = QAModel.new(Aligner.from_pretrained(aligner_folder), "trm", config, vocabulary)
        prefix, mask = model.prefix(batch.images)
        ids = batch.question_ids, batch.answer_ids
        shown, rolled = (model.decoder(x, mask, *ids) for x in (prefix, prefix.roll(1, 0)))
        changed[vision] = (shown - rolled).abs().max().item()
    assert changed["true"] > 1e-3
    assert changed["false"] == 0


def test_a_sweeps_point_answers_the_test_questions(make_config, aligner_folder, tmp_path):
    config = make_config("qa.train.epochs=1")
    run = Run.create(config, "qa", tmp_path)
    [metrics] = launch(measure_decoder, config, "trm", aligner_folder, run.folder).values()
    answers, test = pd.read_csv(run.folder / "answers.csv"), load_table(config.data, "qa-test")
    assert answers.row.tolist() == test.questions.rows.tolist()
    assert metrics["qa.trm.em.all"] == pytest.approx(answers.em.mean())
    rows = load_file(run.checkpoints / "best/model.safetensors")["embed.weight"].shape[0]
    assert metrics["parameters.trm"] - metrics["parameters.core.trm"] == (
        2 * rows * 16 + 16 * 16 + 16 + 16  # embeddings and head; the prefix's projection and norm
    )
    # by hand: 3 prefix vectors for 4 questions, questions and answers of average length
    vocabulary = QAModel.from_pretrained(run.checkpoints / "best").vocabulary
    question = np.mean([len(ids) for ids in vocabulary.encode(test.questions.texts)])
    answer = np.mean([len(a) + 1 for a in vocabulary.encode(answers.reference)])
    expected = 1.25 * (3 / 4 + question) + 2 * 2 * 2 * answer
    assert metrics["layer_tokens.trm"] == pytest.approx(expected)
    assert (
        metrics["flops.trm"] == 2 * metrics["parameters.core.trm"] * metrics["layer_tokens.trm"] / 2
    )


def test_one_checkpoint_is_tested_with_other_steps(make_config, aligner_folder, tmp_path):
    config = make_config("qa.train.epochs=1 qa.test_steps=[2,5]")
    run = Run.create(config, "qa", tmp_path)
    [metrics] = launch(measure_decoder, config, "trm", aligner_folder, run.folder).values()
    assert metrics["qa.trm.em.all.steps2"] == metrics["qa.trm.em.all"]  # as it was trained
    test = load_table(config.data, "qa-test")
    model = QAModel.from_pretrained(run.checkpoints / "best")
    model.decoder.inner_steps = 5
    store = open_store(vision_config(config, aligner_folder), "vision", test)
    answers = answer_table(model, test, store, config)
    assert metrics["qa.trm.em.all.steps5"] == answers.em.mean()
    assert metrics["qa.trm.f1.all.steps5"] == answers.f1.mean()
    assert (answers.answer != pd.read_csv(run.folder / "answers.csv").answer).any()


def test_the_wrong_image_control_shows_another_picture(parts, aligner_folder):
    config, train, *_ = parts
    store = open_store(vision_config(config, aligner_folder), "vision", train)
    seen = []

    class Watcher:
        decoder = new_model(parts, aligner_folder).decoder

        def answer(self, images, questions, max_tokens):
            seen.append(images.pooled)
            return ["one"] * len(questions)

    answer_table(Watcher(), train, store, config)
    answer_table(Watcher(), train, store, config, shuffle=True)
    right, wrong = seen
    assert not (right == wrong).all(1).any()
    assert torch.equal(right.sum(0), wrong.sum(0)) or torch.allclose(right.sum(0), wrong.sum(0))


def test_pictures_are_answered_as_their_stored_features_are(parts, aligner_folder):
    model = new_model(parts, aligner_folder).eval()
    _, train, features, _ = parts
    images = train.images(train.image_rows[:3])
    prefix = model.prefix(features.gather([0, 1, 2]))[0]
    torch.testing.assert_close(model.aligner.encode_images(images), prefix, atol=5e-3, rtol=5e-3)
    asked = train.questions.texts[:3]
    assert model.answer(images, asked, 6) == model.answer(features.gather([0, 1, 2]), asked, 6)


def test_one_question_about_one_picture_has_one_answer(parts, aligner_folder):
    model = new_model(parts, aligner_folder).eval()
    _, train, *_ = parts
    (image,), asked = train.images(train.image_rows[:1]), train.questions.texts[0]
    assert [model.answer(image, asked, 6)] == model.answer([image], [asked], 6)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["how many?", " "], "question 1 is empty"),
        ([], "no question"),
        (["how many?"] * 3, "3 questions do not divide among 2 images"),
    ],
    ids=["empty question", "no question", "wrong number"],
)
def test_questions_that_cannot_be_answered_are_refused(asked, message, parts, aligner_folder):
    model = new_model(parts, aligner_folder).eval()
    _, train, *_ = parts
    with pytest.raises(ValueError, match=message):
        model.answer(train.images(train.image_rows[:2]), asked, 6)
