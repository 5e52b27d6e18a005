"""Generated answers to test conversations of any kind: none ends a run whose training is done."""

import numpy as np
import pytest
import torch
from conversation_helpers import assistant, user

from edge_lib.config import LanguageConfig
from edge_lib.data.chat import Chat
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.experiments.vlm_answers import answer_questions, generate_answers
from edge_lib.metrics.answers import by_kind
from edge_lib.nn.decoders.language import load_tokenizer

CONTROLS = ("own", "another", "none")


class FakeFeatures:
    """Features whose pooled vector is the number of the row."""

    def __init__(self, valid):
        self.valid = np.asarray(valid, bool)

    def gather(self, rows):
        assert all(self.valid[rows])
        return EncoderOutput(None, None, torch.as_tensor(rows).float()[:, None])


class EchoModel:
    """A stub that answers with the numbers of the prompt's images."""

    def __init__(self):
        tokenizer = load_tokenizer(LanguageConfig(model="tiny-qwen2"))
        self.chat = Chat(tokenizer, {"image": 1, "audio": 1}, 200)

    def answer_batch(self, conversations, prefixes):
        images = iter(prefixes["image"].pooled[:, 0].int().tolist() if "image" in prefixes else [])
        counts = [self.chat.count(messages)["image"] for messages in conversations]
        answers = [" ".join(str(next(images)) for _ in range(count)) for count in counts]
        assert next(images, None) is None
        return answers

    def generate(self, prompts, image_cache):
        return [f"{prompt} {image_cache}" for prompt in prompts]


@pytest.fixture
def answer(make_table, encode_image):
    """answer(rows, valid) -> the table and its answers, with each of the controls."""

    def run(rows, valid=None):
        image = {"image": encode_image()}
        rows = [image | {"id": str(n), **row} for n, row in enumerate(rows)]
        table, features = make_table(rows), FakeFeatures(np.ones(len(rows)))
        features.valid[:] = True if valid is None else valid
        both = {"image": features, "audio": features}
        return table, {
            images: generate_answers(EchoModel(), table, both, images) for images in CONTROLS
        }

    return run


def test_first_answer_to_a_question_is_generated(answer):
    """A greeting, an empty system prompt or several questions may stand before it."""
    system, question = {"role": "system", "content": ""}, user("<image>?")
    _, answers = answer(
        [
            {"turns": [assistant("hello"), question, assistant("0"), user("?"), assistant("x")]},
            {"turns": [system, user("hm"), question, assistant("1")]},
            {"turns": [question, assistant("no 2"), assistant("x")]},
        ]
    )
    assert answers["own"].answer.tolist() == ["0", "1", "2"]
    assert answers["own"].reference.tolist() == ["0", "1", "no 2"]
    assert answers["none"].answer.tolist() == [""] * 3
    assert answers["another"].answer.tolist() == ["1", "2", "0"]


def test_unusable_conversations_are_counted_by_reason(answer):
    question = user("<image>?")
    table, answers = answer(
        [
            {"turns": [question, assistant("0")]},
            {"turns": [question, assistant("1")]},
            {"turns": [user("why? " * 500 + "<image>"), assistant("long")]},
            {"turns": [assistant("<image> hello"), question, assistant("mark")]},
            {"turns": [question, assistant(" ")]},
        ],
        valid=[1, 0, 1, 1, 1],
    )
    assert answers["own"].row.tolist() == [0]
    assert table.skipped == {
        "a turn without role or text": ["4"],
        "refused by the chat template": ["2", "3"],
        "an image or clip could not be encoded": ["1"],
    }


@pytest.mark.parametrize(
    "rows",
    [
        [{"turns": [user("<image>?"), assistant("no")]}],
        [{"turns": [user("?"), assistant("no")], "image": None}] * 3,
        [{"turns": [user("<image>?"), assistant("no")], "image_id": "same"}] * 3,
        [{"turns": [user("<image>" + "why? " * 500), assistant("no")]}] * 2,
    ],
    ids=["single", "no image", "one image for all", "all refused"],
)
def test_control_without_other_images_is_an_empty_table(answer, rows):
    table, answers = answer(rows)
    usable = len(rows) - len(table.skipped["refused by the chat template"])
    assert [len(answers[name]) for name in CONTROLS] == [usable, 0, usable]
    scores = {name: by_kind(scored, table.groups, {}, 10) for name, scored in answers.items()}
    assert not len(scores["another"])
    assert scores["own"].columns.tolist() == scores["another"].columns.tolist()


REFERENCES = {
    "emoji": "🙂",
    "punctuation": "...",
    "zero width": "\u200b.",
    "long": "long " * 20_000,
    "NUL": "a\0b",
}


@pytest.mark.parametrize("text", REFERENCES.values(), ids=REFERENCES)
def test_references_may_be_any_text(answer, text):
    rows = [{"turns": [user("<image>?"), assistant("x")], "answers": [text, "0"]}]
    rows.append({"turns": [user("<image>?"), assistant("1")], "answers": [None, " "]})
    table, answers = answer(rows)
    own = answers["own"]
    assert own.reference.tolist() == [text.strip(), "1"] or own.reference.tolist() == [text, "1"]
    assert own.em.tolist() == [1.0, 1.0]
    assert len(by_kind(own, table.groups, {}, 10))


def test_questions_about_an_image_leave_out_what_the_model_cannot_be_asked(
    make_table, encode_image
):
    image = {"image": encode_image(), "image_id": "a"}
    turns = [
        [user("<image>\nwhat?"), assistant("red"), user("where?"), assistant("here")],
        [user("why? " * 500 + "<image>"), assistant("long")],
        [user("<image><audio>?"), assistant("clip")],
        [{"role": "system", "content": "<image>"}, assistant("hello"), user("?"), assistant("so")],
    ]
    rows = [{"turns": own, "audio": b"fLaC", **image} for own in turns]
    scored = answer_questions(EchoModel(), make_table(rows), "cache", 0)
    assert scored.question.tolist() == ["what?", "where?", "?"]
    assert scored.answer.tolist() == ["what? cache", "where? cache", "? cache"]
    assert scored.reference.tolist() == ["red", "here", "so"]
    none = answer_questions(EchoModel(), make_table(rows[2:3]), "cache", 0)
    assert none.columns.tolist() == scored.columns.tolist()
    assert len(none) == 0
