"""Tokenised conversations in the cache: written once, the same when they are read again."""

import logging

import numpy as np
import pytest
from conversation_helpers import assistant, user
from transformers import AutoTokenizer

from edge_lib.data import chat_store, conversations
from edge_lib.data.chat import IGNORE, Chat
from edge_lib.data.chat_store import open_tokenized, tokenize
from edge_lib.data.conversations import read_conversations
from edge_lib.features.weights import SHIPPED

ANSWER = assistant("no")


@pytest.fixture
def rows(encode_image):
    """Conversations with none, one and two images and with a clip, and five that are skipped."""
    image = {"image": encode_image()}
    turns = {
        "text": {"turns": [user("why?"), assistant("so so"), user("é🙂?"), ANSWER]},
        "image": {"turns": [user("<image>\nwhat?"), ANSWER], "image_id": "a", **image},
        "two": {"turns": [user("<image><image>?"), ANSWER], "image_ids": ["b", "a"]},
        "holder": {"image_id": "b", **image},
        "clip": {"turns": [user("<audio>?"), ANSWER], "audio": b"fLaC"},
        "open": {"turns": [assistant("hello"), user("why?"), ANSWER]},
        "greeting": {"turns": [user(" "), assistant("hello")]},
        "mark": {"turns": [user("why?"), assistant("an <image>")]},
        "long": {"turns": [user("why? " * 100), ANSWER]},
        "no image": {"turns": [user("<image>"), ANSWER]},
        "alone": {"turns": [assistant("hello")]},
    }
    return [{"id": name, **row} for name, row in turns.items()]


@pytest.fixture
def chat(make_tokenizer):
    return Chat(make_tokenizer(), {"image": 3, "audio": 2}, 200)


SKIPPED = {
    "a turn without role or text": ["greeting"],
    "<image> without an image": ["no image"],
    "refused by the chat template": ["mark", "long", "alone"],
}


def content(tokenized):
    """All that a training batch needs of each conversation."""
    encoded = ([x.tolist() for x in tokenized[number]] for number in range(len(tokenized)))
    items = [tokenized.items(number) for number in range(len(tokenized))]
    arrays = (tokenized.rows, tokenized.lengths, tokenized.labelled)
    return [*encoded], items, [array.tolist() for array in arrays]


def test_tokenized_conversations_equal_those_of_chat(make_table, chat, rows, tmp_path):
    table = make_table(rows)
    encoded, items, arrays = content(open_tokenized(table, chat, tmp_path))
    read = read_conversations(make_table(rows))
    turns = {table.ids[row]: own for row, own in zip(read.rows, read.messages, strict=True)}
    names = ["text", "image", "two", "clip", "open"]
    assert encoded == [[*chat.encode(turns[name])] for name in names]
    assert arrays[0] == [0, 1, 2, 4, 5]
    assert arrays[1] == [len(ids) for ids, _ in encoded]
    assert arrays[2] == [len(ids) - labels.count(IGNORE) for ids, labels in encoded]
    images, clips = zip(*(own.values() for own in items), strict=True)
    assert [*images] == [[], [1], [3, 1], [], []]
    assert [*clips] == [[], [], [], [4], []]
    assert table.skipped == SKIPPED


def test_second_start_reads_the_same_without_tokenising(
    make_table, chat, rows, tmp_path, monkeypatch, caplog
):
    first = content(open_tokenized(make_table(rows), chat, tmp_path))
    monkeypatch.setattr(chat_store, "read_conversations", None)
    monkeypatch.setattr(Chat, "render", None)
    table = make_table(rows)
    with caplog.at_level(logging.INFO):
        assert content(open_tokenized(table, chat, tmp_path)) == first
    assert "<image> in an assistant turn: the model cannot generate it" in caplog.text
    assert table.skipped == SKIPPED


def test_skips_are_one_line_a_reason(make_table, chat, rows, tmp_path, caplog):
    table = make_table([*rows, *rows[-3:], *rows[-3:]])
    valid = np.arange(len(table)) != 1
    with caplog.at_level(logging.WARNING):
        open_tokenized(table, chat, tmp_path).with_features({"image": valid})
    lines = [record.getMessage().partition(": <image> in")[0] for record in caplog.records]
    assert lines == [
        "small: a turn without role or text: 1 skipped (greeting)",
        "small: <image> without an image: 3 skipped (no image, no image, no image)",
        "small: refused by the chat template: 7 skipped (mark, long, alone, ...)",
        "small: an image or clip could not be encoded: 2 skipped (image, two)",
    ]


def test_parts_do_not_change_the_records(make_table, chat, rows, tmp_path, monkeypatch):
    whole = content(open_tokenized(make_table(rows), chat, tmp_path / "whole"))
    monkeypatch.setattr(conversations, "PART", 2)
    table = make_table(rows)
    assert content(open_tokenized(table, chat, tmp_path / "parts")) == whole
    assert table.skipped == SKIPPED
    assert content(tokenize(read_conversations(table), table, chat)) == whole


def test_part_of_a_table_has_conversations_of_its_own(make_table, chat, rows, tmp_path):
    whole = open_tokenized(make_table(rows), chat, tmp_path)
    part = open_tokenized(make_table(rows).select([5, 0], "part", "x"), chat, tmp_path)
    assert part.rows.tolist() == [0, 1]
    for number, other in enumerate((4, 0)):
        assert [x.tolist() for x in part[number]] == [x.tolist() for x in whole[other]]


def files(folder):
    return len([*folder.glob("chats/*.arrow")])


def test_soft_tokens_and_max_length_need_no_new_file(make_table, make_tokenizer, rows, tmp_path):
    lengths = {}
    for count in (3, 50):
        chat = Chat(make_tokenizer(), {"image": count, "audio": 2}, 110)
        table = make_table(rows)
        tokenized = open_tokenized(table, chat, tmp_path)
        names = [table.ids[row] for row in tokenized.rows]
        lengths[count] = dict(zip(names, tokenized.lengths.tolist(), strict=True))
        assert all(len(tokenized[n][0]) == tokenized.lengths[n] for n in range(len(tokenized)))
    assert files(tmp_path) == 1
    assert lengths[50]["image"] == lengths[3]["image"] + 47
    assert "two" not in lengths[50]
    assert "two" in table.skipped["refused by the chat template"]


@pytest.mark.parametrize("change", ["answer", "template", "tokenizer", "system", "image"])
def test_what_records_depend_on_is_tokenised_again(
    make_table, make_tokenizer, rows, tmp_path, change
):
    def open_with(rows, words=(), system=None, **options):
        chat = Chat(make_tokenizer(*words, **options), {"image": 3, "audio": 2}, 200, system)
        return content(open_tokenized(make_table(rows), chat, tmp_path))

    before = open_with(rows)
    changes = {"template": {"template": "{{ messages[-1].content }}"}, "tokenizer": {}}
    if change == "answer":
        rows[0]["turns"][3] = assistant("yes")
    elif change == "image":
        rows[1]["image"] = None
    options = {"words": ("Ġso",)} if change == "tokenizer" else changes.get(change, {})
    options |= {"system": "be kind"} if change == "system" else {}
    assert open_with(rows, **options) != before
    assert files(tmp_path) == 2


def test_saved_tokenizer_needs_no_new_file(make_table, rows, tmp_path):
    """A later stage of training loads the tokenizer that an earlier one saved."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED["tiny-qwen2"])
    open_tokenized(make_table(rows), Chat(tokenizer, {"image": 3}, 200), tmp_path)
    tokenizer(["padded", "and cut"], padding=True, truncation=True, max_length=2)
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    open_tokenized(make_table(rows), Chat(saved, {"image": 3}, 200), tmp_path)
    assert files(tmp_path) == 1


def test_interrupted_writing_leaves_no_file(make_table, chat, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(Chat, "tokenize_rendered", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_tokenized(make_table(rows), chat, tmp_path)
    assert files(tmp_path) == 0
    monkeypatch.undo()
    assert len(open_tokenized(make_table(rows), chat, tmp_path)) == 5


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99], ids=str)
def test_file_that_is_cut_short_is_written_again(make_table, chat, rows, tmp_path, kept):
    whole = content(open_tokenized(make_table(rows), chat, tmp_path))
    [file] = tmp_path.glob("chats/*.arrow")
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert content(open_tokenized(make_table(rows), chat, tmp_path)) == whole


def test_table_without_conversations_has_none(make_table, chat, encode_image, tmp_path):
    tokenized = open_tokenized(make_table([{"image": encode_image()}] * 2), chat, tmp_path)
    assert (len(tokenized), content(tokenized)) == (0, ([], [], [[], [], []]))
    assert len(tokenized.with_items()) == 0
    assert len(tokenized.with_features({"image": np.ones(2, bool)})) == 0
