"""Questions and answers of any kind at scoring: right, or skipped and counted."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from edge_lib.config import ConfigError, QAConfig, TrainConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.qa_batches import MAX_QUESTION, QABatches
from edge_lib.data.vocabulary import EOS, PAD, Vocabulary
from edge_lib.experiments import trm_qa
from edge_lib.experiments.trm_qa import ANSWERS, answer_table, majority_table, read_answers
from edge_lib.metrics.answers import by_kind


class FakeFeatures:
    """Features whose pooled vector is the number of the image."""

    def __init__(self, valid):
        self.valid = np.asarray(valid, bool)

    def gather(self, images):
        assert all(self.valid[images])
        return EncoderOutput(None, None, torch.as_tensor(images).float()[:, None])


class EchoModel:
    """A stub that answers with the question's last word and the number of the image."""

    device = "cpu"

    def answer(self, images, questions, max_tokens):
        numbers = images.pooled[:, 0].int().repeat_interleave(len(questions) // len(images.pooled))
        return [f"{q.split()[-1]} {n}" for q, n in zip(questions, numbers, strict=True)]


def question(text, *answers, **row):
    return {"question": text, "answers": [*answers], **row}


def test_single_question_is_answered_and_has_no_control(make_table):
    table = make_table([question("what?", "what? 0", kind=None)])
    own = answer_table(EchoModel(), table, FakeFeatures([1]), 6)
    other = answer_table(EchoModel(), table, FakeFeatures([1]), 6, shuffle=True)
    assert own.to_dict("records") == [
        {"row": 0, "kind": "question", "answer": "what? 0", "reference": "what? 0"}
        | {"em": 1.0, "f1": 1.0}
    ]
    assert (len(other), other.columns.tolist()) == (0, own.columns.tolist())
    assert by_kind(own, table.groups, {"all": ["question"]}, 10).questions.tolist() == [1] * 4
    assert len(by_kind(other, table.groups, {"all": ["question"]}, 10)) == 0
    assert majority_table(table, table).answer.tolist() == ["what? 0"]


def test_very_long_questions_are_counted_and_skipped(make_table):
    long = "why " * (MAX_QUESTION // 4) + "?"
    assert len(long) == MAX_QUESTION + 1
    table = make_table([question(long, "so"), question(long[1:], "so"), question("who?", "so")])
    answers = answer_table(EchoModel(), table, FakeFeatures([1, 1, 1]), 6)
    assert answers.row.tolist() == [1, 2]
    assert table.skipped == {"a question of more than 500 characters": ["0"]}
    config = QAConfig(train=TrainConfig(batch_size=2), questions_per_image=1)
    vocabulary = Vocabulary.learn(["why who so ?"], 50)
    batches = QABatches(table, FakeFeatures([1, 1, 1]), vocabulary, config, 0)
    assert sorted(batches.ids(0)) == ["1", "2"]


def test_answers_that_are_cut_are_told(make_table, caplog):
    """An answer of as many tokens as `max_answer` has no place for its end."""
    vocabulary = Vocabulary.learn(["so why not"] * 3, 50)
    rows = [question("why?", "so why", "not"), question("why?", "so why not")]
    assert [len(ids) for ids in vocabulary.encode(["so why", "so why not"])] == [2, 3]
    for max_answer, line in ((4, ""), (3, "small: 1 answers are cut to qa.max_answer=3")):
        train = TrainConfig(batch_size=2)
        config = QAConfig(train=train, questions_per_image=1, max_answer=max_answer)
        batches = QABatches(make_table(rows), FakeFeatures([1, 1]), vocabulary, config, 0)
        assert (line in caplog.text) if line else not caplog.text
        assert batches[0].answer_ids.shape[1] <= max_answer


@pytest.mark.parametrize(
    ("answer", "reference", "em"),
    [("?!", "?!", 1.0), ("", "?!", 0.0), ("🙂", "🙂", 1.0), ("no", "🙂", 0.0)],
    ids=["punctuation", "nothing for punctuation", "emoji", "word for emoji"],
)
def test_answers_without_words_are_compared_as_they_are(make_table, answer, reference, em):
    model = EchoModel()
    model.answer = lambda images, questions, max_tokens: [answer] * len(questions)
    table = make_table([question("what?", reference)])
    assert answer_table(model, table, FakeFeatures([1]), 6).em.tolist() == [em]


def test_special_tokens_of_the_vocabulary_are_text_in_questions_and_answers(make_table):
    texts = ["what is [PAD]?", "[EOS]", "[eos] [UNK] no"]
    vocabulary = Vocabulary.learn(texts, 200)
    for text, ids in zip(texts, vocabulary.encode(texts), strict=True):
        assert not {PAD, EOS} & {*ids}
        assert vocabulary.decode(torch.tensor([[*ids, EOS, 9]])) == [text.lower()]
    config = QAConfig(train=TrainConfig(batch_size=2), questions_per_image=1, max_answer=20)
    table = make_table([question(texts[0], texts[1])] * 2)
    batch = QABatches(table, FakeFeatures([1, 1]), vocabulary, config, 0)[0]
    assert vocabulary.decode(batch.answer_ids) == ["[eos]"] * 2
    assert (batch.question_ids != PAD).all()


def test_questions_about_no_encoded_image_are_named_before_training(make_table, monkeypatch):
    tables = {
        "qa-val": make_table([question("what?", "so"), question(" ", "so")]),
        "qa-test": make_table([question("w" * 501, "so")]),
    }
    valid = {"qa-val": [1, 1], "qa-test": [1]}
    opened = {id(table): FakeFeatures(valid[split]) for split, table in tables.items()}
    monkeypatch.setattr(trm_qa, "load_table", lambda data, split: tables[split])
    monkeypatch.setattr(trm_qa, "open_store", lambda spec, name, table: opened[id(table)])
    config = SimpleNamespace(data=None)
    error = "1 a question of more than 500 characters; 0 images could not be encoded"
    with pytest.raises(ConfigError, match=f"small: no question can be asked: {error}"):
        trm_qa.check_encoded(config, None)
    opened[id(tables["qa-val"])].valid[0] = False
    with pytest.raises(ConfigError, match="1 no question; 1 images could not be encoded"):
        trm_qa.check_encoded(config, None)


def test_answers_file_keeps_any_text(tmp_path):
    texts = ["a\rb", "\r", "a\0b", ' "q", ', "NA", "", "x\ny", "é🙂"]
    table = pd.DataFrame({"row": range(len(texts)), "answer": texts, "reference": texts[::-1]})
    (tmp_path / ANSWERS).write_text(table.to_csv(index=False))
    pd.testing.assert_frame_equal(read_answers(tmp_path), table)
