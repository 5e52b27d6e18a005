"""LLaVA's JSON: conversations with no, one or several images."""

import pytest
from conversation_helpers import contents, llava_turns, load_conversations

from edge_lib.config import ConfigError
from edge_lib.data.conversations import read_conversations


def test_llava_reads_published_entries(llava, tmp_path):
    config = llava(
        [
            {"id": "x", "image": "a.jpg", "conversations": llava_turns("<image>\nwhat?", "a cat")},
            {
                "id": "x",
                "image": "a.jpg",
                "conversations": llava_turns("how?", "so", "why\n<image>", "no"),
            },
            {
                "id": 7,
                "image": "b.jpg",
                "conversations": llava_turns("where?", "there", "when?", "then"),
            },
            {"id": "t", "conversations": llava_turns("one?", "two")},
            {"image": ["b.jpg"], "conversations": llava_turns("<image>\nwho?", "he")},
            {"id": "m", "image": "a.jpg", "conversations": llava_turns("<image> <image>", "two")},
            {"id": "t", "conversations": llava_turns("an <image>?", "no")},
            {"id": "n", "image": "c.jpg", "conversations": []},
            {"id": "n"},
            {"id": "o", "conversations": [{"from": "bing", "value": "x"}, *llava_turns("y", "z")]},
        ]
    )
    table = load_conversations(config, tmp_path, "train")
    conversations = read_conversations(table)
    names = [table.ids[row] for row in conversations.rows]
    assert names == ["x-0", "x-1", "7-2", "t-3", "llava-4"]
    assert [contents(messages, "user") for messages in conversations.messages] == [
        ["<image>\nwhat?"],
        ["how?", "why\n<image>"],
        ["<image>\nwhere?", "when?"],  # the entry has an image but no <image>
        ["one?"],
        ["<image>\nwho?"],
    ]
    assert [contents(messages, "assistant") for messages in conversations.messages] == [
        ["a cat"],
        ["so", "no"],
        ["there", "then"],
        ["two"],
        ["he"],
    ]
    widths = [image and image.width for image in table.images(table.image_rows)]
    by_conversation = [
        [widths[table.image_index[row]] for row in rows] for rows in conversations.image_rows
    ]
    assert by_conversation == [[10], [10], [11], [], [11]]
    assert widths == [10, 11, None, 12]  # all rows without an image share one item
    assert conversations.kinds == ["llava"] * 5
    assert table.skipped == {
        "<image> without an image": ["m-5", "t-6"],
        "no conversation": ["n-8"],
        "no assistant turn": ["n-7"],
        "a turn without role or text": ["o-9"],
        "no image": ["t-3"],
    }


def test_llava_reads_entries_with_several_images(llava, tmp_path):
    two = ["a.jpg", "b.jpg"]
    entries = [
        {"id": "p", "image": two, "conversations": llava_turns("<image>\n<image>\nsame?", "no")},
        {
            "id": "q",
            "image": ["c.jpg", "a.jpg"],
            "conversations": llava_turns("<image>", "c", "<image>", "a"),
        },
        {"id": "r", "image": two, "conversations": llava_turns("<image>\nsame?", "no")},
    ]
    table = load_conversations(llava(entries), tmp_path, "train")
    assert table.ids == ["p-0", "q-1", "r-2", "a.jpg", "b.jpg"]  # no entry's first image
    images = table.images(table.image_rows)
    assert len(images) == 3
    widths = [
        [images[table.image_index[row]].width for row in rows]
        for rows in read_conversations(table).image_rows
    ]
    assert widths == [[10, 11], [12, 10]]
    assert table.skipped == {"an image without <image>": ["r-2"]}


def test_llava_counts_a_missing_image_file_when_it_is_decoded(llava, tmp_path):
    entries = [
        {"id": "x", "image": name, "conversations": llava_turns("<image>\nwhat?", "a cat")}
        for name in ("gone.jpg", "a.jpg")
    ]
    table = load_conversations(llava(entries), tmp_path, "train")
    assert read_conversations(table).image_rows == [[0], [1]]
    assert not table.skipped
    missing, image = table.images(table.image_rows)
    assert (missing, image.width) == (None, 10)
    assert table.skipped == {"image does not decode": ["x-0"]}


def test_llava_errors_name_the_config_key(llava, tmp_path):
    entries = [{"conversations": llava_turns("one?", "two")}]
    gone = tmp_path / "gone"
    for changes, split, error in (
        ({}, "val", r"data\.conversations\.llava\.files has no split 'val', only \['train'\]"),
        ({"files": {"train": str(gone)}}, "train", r"llava\.files\.train: no such file .*gone"),
        ({"images": str(gone)}, "train", r"data\.conversations\.llava\.images: no such .*gone"),
    ):
        with pytest.raises(ConfigError, match=error):
            load_conversations(llava(entries, **changes), tmp_path, split)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "is empty"),
        ([1], "has no usable entry: not an object"),
        ({"conversations": []}, "is empty"),
        (
            [{"image": "a.jpg", "caption": "cat"}],
            "has no usable entry: no conversation \\(keys: image, caption\\)",
        ),
        (
            [{"conversations": ["one?", "two"]}],
            "has no usable entry: turns are not a list of objects",
        ),
        (
            [{"conversations": [{"from": "human", "value": 1}]}],
            "has no usable entry: content is not a text",
        ),
        (
            [{"image": 3, "conversations": llava_turns("one?", "two")}],
            "has no usable entry: image is not a path",
        ),
    ],
    ids=["empty", "numbers", "empty object", "captions", "texts", "number as text", "image number"],
)
def test_llava_rejects_json_without_any_conversation(llava, tmp_path, content, problem):
    error = r"data\.conversations\.llava\.files\.train: .*llava\.json "
    with pytest.raises(ConfigError, match=error + problem):
        load_conversations(llava(content), tmp_path, "train")


def test_llava_rejects_invalid_json(llava, tmp_path):
    config = llava([])
    (tmp_path / "llava.json").write_text('[{"id"')
    with pytest.raises(ConfigError, match=r"llava\.json is not JSON: Expecting"):
        load_conversations(config, tmp_path, "train")


def test_llava_without_any_of_its_pictures_is_an_error(llava, tmp_path):
    turns = llava_turns("<image>\nwhat?", "a cat")
    entries = [{"image": f"no{n}.jpg", "conversations": turns} for n in range(300)]
    error = r"llava\.files\.train: .*image: no such file as no0\.jpg in .*images \(300 tried\)$"
    with pytest.raises(ConfigError, match=error):
        load_conversations(llava(entries), tmp_path, "train")
    last = {"image": "a.jpg", "conversations": turns}
    assert len(load_conversations(llava([*entries, last]), tmp_path, "train")) == 301
