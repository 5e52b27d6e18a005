"""Conversations of a table: which rows have one, and the images each refers to."""

import pyarrow as pa
from conversation_helpers import assistant, user
from datasets import Dataset

from edge_lib.data.conversations import read_conversations
from edge_lib.data.table import Table


def test_conversations_skip_and_count_unusable_rows(make_table, encode_image):
    image, answer = encode_image(), assistant("yes")
    turns = {
        "fine": [user(" why? "), answer],
        "null": None,
        "none": [],
        "no answer": [user("why?")],
        "empty": [user("  "), answer],
        "no text": [user("why?"), assistant(None)],
        "no role": [{"role": None, "content": "why?"}, answer],
        "unknown role": [{"role": "tool", "content": "why?"}, answer],
        "no image": [user("<image>"), answer],
        "no clip": [user("<audio>"), answer],
        "unknown image": [user("<image>"), answer],
        "in an answer": [user("why?"), assistant("an <image> or <audio>")],
    }
    rows = [{"id": name, "turns": row} for name, row in turns.items()]
    rows[-2]["image_ids"] = ["elsewhere"]
    with_image = {"image": image, "kind": "seen"}
    with_clip = {"audio": b"fLaC"}
    rows += [
        {"id": "image", "turns": [user("<image>"), answer], **with_image},
        {"id": "image unused", "turns": [user("why?"), answer], **with_image},
        {"id": "image twice", "turns": [user("<image>"), user("<image>"), answer], **with_image},
        {"id": "clip", "turns": [user("<audio>?"), answer], **with_clip},
        {"id": "clip unused", "turns": [user("?"), answer], **with_clip},
        {"id": "clip twice", "turns": [user("<audio><audio>"), answer], **with_clip},
    ]
    table = make_table(rows)
    conversations = read_conversations(table)
    names = [table.ids[row] for row in conversations.rows]
    assert names == ["fine", "in an answer", "image", "clip", "clip unused"]
    assert conversations.messages[0] == [user("why?"), answer]
    assert conversations.kinds == [*["conversation"] * 2, "seen", *["conversation"] * 2]
    assert conversations.image_rows == [[], [], [12], [], []]
    assert table.skipped == {
        "no assistant turn": ["none", "no answer"],
        "a turn without role or text": ["empty", "no text", "no role", "unknown role"],
        "<image> without an image": ["no image", "unknown image", "image twice"],
        "an image without <image>": ["image unused"],
        "<audio> without a clip": ["no clip", "clip twice"],
    }


def test_conversations_refer_to_images_in_the_order_of_image_ids(make_table, encode_image):
    table = make_table(
        [
            {"image_id": "a", "image": encode_image(0)},
            {"image_id": "b", "image": encode_image(1)},
            {"image_id": "a", "turns": [user("<image>"), assistant("first")]},
            {"turns": [user("<image><image>"), assistant("both")], "image_ids": ["b", "a"]},
        ]
    )
    conversations = read_conversations(table)
    assert conversations.rows.tolist() == [2, 3]
    assert conversations.image_rows == [[2], [1, 0]]  # a row with image_id "a" refers to itself
    assert not table.skipped


def test_text_that_is_not_utf8_is_skipped_alone(make_table):
    """As Parquet files of other programs may hold."""
    fine = make_table([{"turns": [user("why?"), assistant("\u00e9")]}] * 3)
    turns = fine.dataset.data.column("turns").combine_chunks()
    texts = pa.array([b"why?", b"\xe9t\xe9", b"why?", b"so", b"why?", b"so"]).cast(pa.binary())
    texts = pa.StringArray.from_buffers(6, *texts.buffers()[1:])
    roles = pa.array(["user", "assistant"] * 3)
    values = pa.StructArray.from_arrays([roles, texts], ["role", "content"])
    column = pa.ListArray.from_arrays(turns.offsets, values)
    table = Table(Dataset(pa.table({"id": ["a", "b", "c"], "turns": column})), "small", "")
    conversations = read_conversations(table)
    assert conversations.rows.tolist() == [1, 2]
    assert conversations.messages == [[user("why?"), assistant("so")]] * 2
    assert table.skipped == {"a text that is not UTF-8": ["a"]}


def test_turns_without_any_text_are_skips():
    """Arrow takes a column of nulls for one without a type."""
    turns = pa.array([[{"role": "user", "content": None}, {"role": "assistant", "content": None}]])
    table = Table(Dataset(pa.table({"turns": turns})), "small", "f")
    assert len(read_conversations(table)) == 0
    assert table.skipped == {"a turn without role or text": ["0"]}
