"""Which row's image each placeholder of a conversation stands for."""

from datasets import Dataset

from edge_lib.data.conversations import read_conversations
from edge_lib.data.table import Table


def turns(images):
    question = {"role": "user", "content": "<image>" * images + "What is it?"}
    return [question, {"role": "assistant", "content": "A cat."}]


def image_rows(table):
    conversations = read_conversations(table)
    return dict(zip(conversations.rows.tolist(), conversations.image_rows, strict=True))


def test_rows_with_equal_or_null_ids_show_their_own_image(make_table):
    rows = [{"id": "x", "image": b"red"}, {"id": "x", "image": b"blue"}, {"image": b"green"}]
    table = make_table([row | {"turns": turns(1)} for row in rows])
    assert image_rows(table) == {0: [0], 1: [1], 2: [2]}


def test_named_images_are_those_of_the_first_row_with_the_name(make_table):
    table = make_table(
        [
            {"image_id": "a", "image": b"red", "turns": turns(1)},
            {"image_id": "b", "image": b"blue"},
            {"image_id": "a", "image": b"green", "turns": turns(1)},
            {"image_ids": ["b", "a", "b"], "turns": turns(3)},
        ]
    )
    assert image_rows(table) == {0: [0], 2: [2], 3: [1, 0, 1]}


def test_unknown_and_null_names_are_no_image(make_table):
    rows = [{"image": b"red"}, {"image_ids": [None], "turns": turns(1)}]
    table = make_table([*rows, {"image_ids": ["None"], "turns": turns(1)}])
    assert image_rows(table) == {}
    assert table.skipped == {"<image> without an image": ["1", "2"]}


def test_names_may_be_numbers_in_one_column_and_texts_in_the_other():
    columns = {"image": [b"red", None], "image_id": [5, None], "image_ids": [None, ["5"]]}
    table = Table(Dataset.from_dict({**columns, "turns": [turns(1), turns(1)]}), "small", "f")
    assert image_rows(table) == {0: [0], 1: [0]}


def test_selected_rows_keep_their_images(make_table):
    rows = [{"image_id": name, "image": name.encode(), "turns": turns(1)} for name in "abc"]
    rows.append({"image_ids": ["c", "a"], "turns": turns(2)})
    assert image_rows(make_table(rows).select([3, 2, 0], "part", "f")) == {
        0: [1, 2],
        1: [1],
        2: [2],
    }
