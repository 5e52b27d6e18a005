"""Decoders on the vision of a frozen aligner: batches, loss, training, answers."""

import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_configs import qa_config

from edge_lib.config import ConfigError
from edge_lib.data.qa_batches import QABatches
from edge_lib.data.vocabulary import EOS, PAD
from edge_lib.experiments.recursion import answers_by_step, attention_by_step
from edge_lib.experiments.trm_qa import (
    QA_SPLITS,
    answer_table,
    learn_vocabulary,
    majority_table,
    measure_decoder,
    train_decoder,
    vision_spec,
)
from edge_lib.features.extract import write_features
from edge_lib.features.online import open_features
from edge_lib.features.store import open_store
from edge_lib.metrics.answers import exact_match
from edge_lib.models import Aligner, QAModel
from edge_lib.runs import Run
from edge_lib.sources import load_table
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.launch import launch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(scope="module")
def make_config(aligner_folder, small_align):
    """make_config("key=value ...") -> a tiny QA config that runs in seconds, with features."""
    make = partial(qa_config, aligner_folder, small_align("").data.cache_dir)
    write_features(make().data, vision_spec(make(), aligner_folder), QA_SPLITS)
    return make


@pytest.fixture(scope="module")
def parts(make_config, aligner_folder):
    """Config, train table, its features and vocabulary."""
    config = make_config()
    train = load_table(config.data, "qa-train")
    features = open_features(vision_spec(config, aligner_folder), train)["vision"]
    return config, train, features, learn_vocabulary(train, config.qa.vocab_size)


@pytest.fixture(scope="module")
def model(parts, aligner_folder):
    return new_model(parts, aligner_folder).eval()


def batches_of(parts, **ranks):
    config, train, features, vocabulary = parts
    return QABatches(train, features, vocabulary, config.qa, config.seed, **ranks)


def new_model(parts, aligner_folder, decoder="trm", vision=True):
    config, *_, vocabulary = parts
    torch.manual_seed(0)
    aligner = Aligner.from_pretrained(aligner_folder)
    return QAModel(aligner, decoder, config.qa.decoders[decoder], vocabulary, vision)


def store_of(config, aligner_folder, table):
    return open_store(vision_spec(config, aligner_folder), "vision", table)


# --- batches ---------------------------------------------------------------------------------


def test_batch_holds_images_with_their_questions_and_answers(parts):
    _, train, features, vocabulary = parts
    batches = batches_of(parts)
    batch = batches[0]
    rows = [train.ids.index(name) for name in batches.ids(0)]
    images = train.image_index[rows].reshape(8, 4)
    assert (images == images[:, :1]).all()  # four questions about each image
    assert torch.equal(batch.images.pooled, features.gather(images[:, 0]).pooled)
    texts = dict(zip(train.questions.rows, train.questions.texts, strict=True))
    answers = dict(zip(train.questions.rows, train.questions.answers, strict=True))
    assert vocabulary.decode(batch.question_ids) == [texts[row] for row in rows]
    assert vocabulary.decode(batch.answer_ids) == [answers[row][0] for row in rows]
    assert ((batch.answer_ids == EOS).sum(1) == 1).all()


def test_batches_use_every_image_once_in_an_epoch_and_ranks_share_each(parts):
    batches = batches_of(parts)
    ids = [name for step in range(batches.steps_per_epoch) for name in batches.ids(step)]
    assert len(set(ids)) == len(ids) == 160
    halves = [batches_of(parts, rank=rank, world_size=2)[3] for rank in (0, 1)]
    joined = torch.cat([half.images.pooled for half in halves])
    assert torch.equal(joined, batches[3].images.pooled)


def test_batches_use_as_many_images_as_configured(parts, make_config):
    _, train, features, vocabulary = parts

    def steps(overrides):
        config = make_config(overrides)
        return QABatches(train, features, vocabulary, config.qa, config.seed).steps_per_epoch

    assert steps("qa.scenes=16") == 2
    with pytest.raises(ConfigError, match="do not fill one batch"):
        steps("qa.scenes=4")
    with pytest.raises(ConfigError, match=r"qa\.train\.batch_size=30 is not a multiple of 4"):
        steps("qa.train.batch_size=30")
    config = make_config()
    with pytest.raises(ConfigError, match=r"qa\.train\.batch_size=32 does not divide"):
        QABatches(train, features, vocabulary, config.qa, config.seed, world_size=3)


def test_curriculum_uses_its_kinds_alone_in_the_first_steps(parts, make_config):
    _, train, features, vocabulary = parts
    kind_of = dict(zip(train.questions.rows, train.questions.kinds, strict=True))

    def batches(kinds):
        config = make_config(f"'qa.curriculum={{kinds: {kinds}, steps: 2}}'")
        return QABatches(train, features, vocabulary, config.qa, config.seed)

    curriculum = batches("[colour, digit, position, count]")
    ids = [curriculum.ids(step) for step in range(3)]
    kinds = [{kind_of[train.ids.index(name)] for name in names} for names in ids]
    assert kinds[0] | kinds[1] <= {"colour", "digit", "position", "count"} < kinds[2]
    with pytest.raises(ConfigError, match="no question is of kind colours; kinds are chain1"):
        batches("[colours, digit]")


def test_batches_leave_out_images_that_were_not_encoded(parts):
    _, _, features, _ = parts
    valid = features.valid.copy()
    features.valid[5] = False
    try:
        batches = batches_of(parts)
    finally:
        features.valid[:] = valid
    assert 5 not in batches.images
    assert len(batches.images) == 39


# --- loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["plain", "trm"])
def test_loss_is_the_mean_over_answer_tokens(decoder, parts, aligner_folder):
    model, batch = new_model(parts, aligner_folder, decoder), batches_of(parts)[0]
    prefix = model.prefix(batch.images)
    logits = model.decoder(*prefix, batch.question_ids, batch.answer_ids)
    losses = [
        F.cross_entropy(row[position], ids[position])
        for row, ids in zip(logits, batch.answer_ids, strict=True)
        for position in range(len(ids))
        if ids[position] != PAD
    ]
    torch.testing.assert_close(model(batch), torch.stack(losses).mean())
    batch.answer_ids = torch.cat([batch.answer_ids, torch.full((32, 3), PAD)], 1)
    torch.testing.assert_close(model(batch), torch.stack(losses).mean())


def test_training_changes_the_decoder_alone(parts, aligner_folder):
    model = new_model(parts, aligner_folder).train()
    model(batches_of(parts)[0]).backward()
    assert not model.aligner.training
    assert all(p.grad is None for p in model.aligner.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())


# --- training and answers --------------------------------------------------------------------


def test_resumed_training_equals_uninterrupted_training(make_config, aligner_folder, tmp_path):
    """The same weights and the same averaged weights, which are saved as the best."""
    config = make_config("qa.train.eval_every=1000")  # only at the end
    runs = {name: Run.create(config, "qa", tmp_path / name) for name in ("whole", "killed")}
    for run in runs.values():
        launch(train_decoder, config, "trm", aligner_folder, run.folder)
    newest = newest_checkpoint(runs["killed"].checkpoints)
    shutil.rmtree(newest)  # as if the run had been killed after the checkpoint before
    shutil.rmtree(runs["killed"].checkpoints / "best")
    state = next(runs["killed"].checkpoints.glob("step-*")) / "custom_checkpoint_1.pkl"
    progress = torch.load(state)
    torch.save(progress | {"best": -1.0}, state)
    launch(train_decoder, config, "trm", aligner_folder, runs["killed"].folder)
    weights = {}
    for part in ("best", newest.name):
        a, b = (load_file(run.checkpoints / part / "model.safetensors") for run in runs.values())
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
        weights[part] = a
    last, best = weights[newest.name], weights["best"]
    assert not all(torch.equal(x, last[f"decoder.{name}"]) for name, x in best.items())


@pytest.mark.parametrize("overrides", ["", "qa.vision=false"])
def test_two_processes_train_a_decoder_like_one(overrides, make_config, aligner_folder, tmp_path):
    config = make_config(f"qa.train.epochs=1 {overrides}")
    weights, losses = {}, {}
    for count in (1, 2):
        run = Run.create(config, "qa", tmp_path / str(count))
        launch(train_decoder, config, "trm", aligner_folder, run.folder, num_processes=count)
        losses[count] = run.history()["loss"].dropna()
        weights[count] = load_file(newest_checkpoint(run.checkpoints) / "model.safetensors")
    for name, one in weights[1].items():
        torch.testing.assert_close(one, weights[2][name], atol=2e-4, rtol=1e-3)
    assert losses[1].to_numpy() == pytest.approx(losses[2].to_numpy(), rel=1e-3)


def test_qa_model_loads_with_the_same_answers(parts, model, aligner_folder, tmp_path, rename_keys):
    model.save_pretrained(tmp_path / "model")
    rename_keys()
    loaded = QAModel.from_pretrained(tmp_path / "model")
    config, train, *_ = parts
    store = store_of(config, aligner_folder, train)
    first, second = (answer_table(m, train, store, 6) for m in (model, loaded))
    assert first.equals(second)
    assert len(first) == len(train)
    assert not loaded.training


def test_qa_model_file_holds_the_model_alone(model, tmp_path):
    model.save_pretrained(tmp_path)
    metadata = json.loads((tmp_path / "qa.json").read_text())
    assert metadata.keys() == {"decoder", "config", "vision", "sha256"}
    sizes = {"width", "layers", "heads", "norm", "inner_steps", "outer_steps"}
    assert metadata["config"].keys() == sizes | {"latent", "update", "deep_supervision"}


def test_qa_model_paths_are_relative_to_the_working_directory(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("qa")
    assert (tmp_path / "qa/aligner/aligner.json").is_file()
    loaded = QAModel.from_pretrained("qa").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_answer_table_pairs_answers_with_their_questions(parts, aligner_folder):
    """The stub answers with the last word of the question."""
    config, train, *_ = parts

    class LastWordModel:
        device = "cpu"

        def answer(self, images, questions, max_tokens):
            return [question.split()[-1] for question in questions]

    answers = answer_table(LastWordModel(), train, store_of(config, aligner_folder, train), 6)
    texts = dict(zip(train.questions.rows, train.questions.texts, strict=True))
    assert [texts[row.row].split()[-1] for row in answers.itertuples()] == answers.answer.tolist()
    assert answers.row.tolist() == sorted(answers.row)
    expected = [exact_match(row.answer, [row.reference]) for row in answers.itertuples()]
    assert answers.em.tolist() == expected


def test_recursion_ends_in_the_answer_and_attends_to_the_prefix(parts, model):
    _, train, features, _ = parts
    images, questions = features.gather([0, 1]), train.questions.texts[:4]
    by_step = answers_by_step(model, images, questions, 6)
    assert len(by_step) == 2  # inner steps
    assert by_step[-1] == model.answer(images, questions, 6)
    assert by_step[0] != by_step[1]
    maps = attention_by_step(model, images, questions, 6)
    assert maps.shape == (2, 4, 3)  # 3 prefix vectors
    assert (maps > 0).all()
    assert (maps.sum(-1) < 1).all()  # the rest is on the question and the answer
    swapped = attention_by_step(model, features.gather([1, 0]), questions, 6)
    assert not torch.equal(maps, swapped)
    assert model.decoder.stack.layers[-1].recorded is None


def test_majority_table_gives_the_most_frequent_answer_of_a_kind(parts):
    _, train, *_ = parts
    majority = majority_table(train, train)
    questions = train.questions
    for kind in set(questions.kinds):
        pairs = zip(questions.answers, questions.kinds, strict=True)
        answers = [a[0] for a, k in pairs if k == kind]
        most = max(answers.count(answer) for answer in answers) / len(answers)
        assert majority[majority.kind == kind].em.mean() == pytest.approx(most)


def test_model_without_vision_ignores_the_image(aligner_folder, parts):
    batch = batches_of(parts)[0]
    difference = {}
    for vision in (True, False):
        model = new_model(parts, aligner_folder, "trm", vision)
        prefix, mask = model.prefix(batch.images)
        ids = batch.question_ids, batch.answer_ids
        own, other = (model.decoder(x, mask, *ids) for x in (prefix, prefix.roll(1, 0)))
        difference[vision] = (own - other).abs().max().item()
    assert difference[True] > 1e-3
    assert difference[False] == 0


def test_measure_decoder_scores_the_test_questions(make_config, aligner_folder, tmp_path):
    config = make_config("qa.train.epochs=1")
    run = Run.create(config, "qa", tmp_path)
    [metrics] = launch(measure_decoder, config, "trm", aligner_folder, run.folder).values()
    answers, test = pd.read_csv(run.folder / "answers.csv"), load_table(config.data, "qa-test")
    assert answers.row.tolist() == test.questions.rows.tolist()
    assert metrics["qa.trm.em.all"] == pytest.approx(answers.em.mean())
    rows = load_file(run.checkpoints / "best/model.safetensors")["embed.weight"].shape[0]
    assert metrics["parameters.trm"] - metrics["parameters.core.trm"] == (
        2 * rows * 16 + 16 * 16 + 16 + 16  # embeddings and head; projection of the prefix and norm
    )
    # 3 prefix vectors for 4 questions; questions and answers of average length
    vocabulary = QAModel.from_pretrained(run.checkpoints / "best").vocabulary
    question = np.mean([len(ids) for ids in vocabulary.encode(test.questions.texts)])
    answer = np.mean([len(a) + 1 for a in vocabulary.encode(answers.reference)])
    expected = 1.25 * (3 / 4 + question) + 2 * 2 * 2 * answer
    assert metrics["layer_tokens.trm"] == pytest.approx(expected)
    assert (
        metrics["flops.trm"] == 2 * metrics["parameters.core.trm"] * metrics["layer_tokens.trm"] / 2
    )


def test_measure_decoder_tests_other_numbers_of_steps(make_config, aligner_folder, tmp_path):
    config = make_config("qa.train.epochs=1 qa.test_steps=[2,5]")
    run = Run.create(config, "qa", tmp_path)
    [metrics] = launch(measure_decoder, config, "trm", aligner_folder, run.folder).values()
    assert metrics["qa.trm.em.all.steps2"] == metrics["qa.trm.em.all"]  # as in training
    test = load_table(config.data, "qa-test")
    model = QAModel.from_pretrained(run.checkpoints / "best")
    model.decoder.inner_steps = 5
    answers = answer_table(model, test, store_of(config, aligner_folder, test), 6)
    assert metrics["qa.trm.em.all.steps5"] == answers.em.mean()
    assert metrics["qa.trm.f1.all.steps5"] == answers.f1.mean()
    assert (answers.answer != pd.read_csv(run.folder / "answers.csv").answer).any()


def test_answer_table_shuffles_images_for_the_control(parts, aligner_folder):
    config, train, *_ = parts
    store, inputs = store_of(config, aligner_folder, train), []

    class RecordingModel:
        device = "cpu"

        def answer(self, images, questions, max_tokens):
            inputs.append(images.pooled)
            return ["one"] * len(questions)

    answer_table(RecordingModel(), train, store, 6)
    answer_table(RecordingModel(), train, store, 6, shuffle=True)
    own, other = inputs
    assert not (own == other).all(1).any()
    torch.testing.assert_close(own.sum(0), other.sum(0))


def test_answers_to_images_equal_those_to_stored_features(parts, model):
    _, train, features, _ = parts
    images, stored = train.images(train.image_rows[:3]), features.gather([0, 1, 2])
    encoded = model.prefix(model.aligner.encode("vision", images))[0]
    torch.testing.assert_close(encoded, model.prefix(stored)[0], atol=5e-3, rtol=5e-3)
    questions = train.questions.texts[:3]
    assert model.answer(images, questions, 6) == model.answer(stored, questions, 6)


def test_answer_to_one_question_is_one_text(parts, model):
    _, train, *_ = parts
    (image,), question = train.images(train.image_rows[:1]), train.questions.texts[0]
    assert [model.answer(image, question, 6)] == model.answer([image], [question], 6)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (["how many?", " "], "question 1 is empty"),
        ([], "no question"),
        (["how many?"] * 3, "3 questions do not divide among 2 images"),
    ],
    ids=["empty", "none", "three for two images"],
)
def test_answer_rejects_questions_that_do_not_fit(questions, message, parts, model):
    _, train, *_ = parts
    with pytest.raises(ValueError, match=message):
        model.answer(train.images(train.image_rows[:2]), questions, 6)
