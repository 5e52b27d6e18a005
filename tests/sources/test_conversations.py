"""Conversations in the one-table schema: about scenes, LLaVA's, and instructions."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from edge_lib.sources.conversations import load_conversations

from edge_lib.config import ConfigError
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.data.audio import RATE
from edge_lib.sources.scenes.conversations import DESCRIBE, scene_rows, scenes_asked
from edge_lib.sources.scenes.questions import ask
from edge_lib.sources.scenes.render import render
from edge_lib.sources.scenes.scene import Scene
from edge_lib.sources.scenes.speech import VARIANTS, speak

SMALL = {"train_scenes": 7, "val_scenes": 3, "test_scenes": 3, "per_scene": 4}


def contents(messages, role):
    return [message["content"] for message in messages if message["role"] == role]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# --- what a table holds ----------------------------------------------------------------------


def test_what_cannot_be_used_is_counted_and_skipped(make_table, encode_image):
    picture, answer = encode_image(), assistant("yes")
    turns = {
        "fine": [user(" why? "), answer],
        "none meant": None,
        "none": [],
        "no answer": [user("why?")],
        "empty": [user("  "), answer],
        "no text": [user("why?"), assistant(None)],
        "no role": [{"role": None, "content": "why?"}, answer],
        "their role": [{"role": "tool", "content": "why?"}, answer],
        "no image": [user("<image>"), answer],
        "no clip": [user("<audio>"), answer],
        "unknown image": [user("<image>"), answer],
        "said": [user("why?"), assistant("an <image> or <audio>")],
    }
    rows = [{"id": name, "turns": said} for name, said in turns.items()]
    rows[-2]["image_ids"] = ["elsewhere"]
    seen = {"image": picture, "kind": "seen"}
    rows += [
        {"id": "seen", "turns": [user("<image>"), answer], **seen},
        {"id": "unseen", "turns": [user("why?"), answer], **seen},
        {"id": "seen once", "turns": [user("<image>"), user("<image>"), answer], **seen},
        {"id": "heard", "turns": [user("<audio>?"), answer], "audio": b"fLaC"},
        {"id": "not heard", "turns": [user("?"), answer], "audio": b"fLaC"},
        {"id": "heard once", "turns": [user("<audio><audio>"), answer], "audio": b"fLaC"},
    ]
    table = make_table(rows)
    found = table.conversations
    names = [table.ids[row] for row in found.rows]
    assert names == ["fine", "said", "seen", "heard", "not heard"]
    assert found.messages[0] == [user("why?"), answer]
    assert found.kinds == ["conversation", "conversation", "seen", "conversation", "conversation"]
    assert found.pictures == [[], [], [12], [], []]
    assert table.skipped == {
        "no conversation": ["none", "no answer"],
        "a turn without role or text": ["empty", "no text", "no role", "their role"],
        "<image> without an image": ["no image", "unknown image", "seen once"],
        "an image without <image>": ["unseen"],
        "<audio> without a clip": ["no clip", "heard once"],
    }


def test_pictures_come_in_the_order_of_their_names(make_table, encode_image):
    table = make_table(
        [
            {"image_id": "a", "image": encode_image(0)},
            {"image_id": "b", "image": encode_image(1)},
            {"image_id": "a", "turns": [user("<image>"), assistant("first")]},
            {"turns": [user("<image><image>"), assistant("both")], "image_ids": ["b", "a"]},
        ]
    )
    assert table.conversations.rows.tolist() == [2, 3]
    assert table.conversations.pictures == [[2], [1, 0]]  # the first shows its own row's
    assert not table.skipped


# --- scenes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_scene_is_described_and_asked_about(tmp_path, split):
    table = load_conversations(ConversationsConfig(**SMALL, seed=3), tmp_path, split)
    size = SMALL[f"{split}_scenes"]
    drawn = [
        (Scene(tuple(sorted(scene.things, key=lambda t: t.cell)), scene.phrasing), questions)
        for scene, questions in ask(split, size, 4, max_objects=4, hops=0, seed=3)
    ]
    found = table.conversations
    talks = iter(zip(found.kinds, found.messages, found.pictures, strict=True))
    for number, (scene, questions) in enumerate(drawn):
        phrasing = DESCRIBE[number % 3]
        described = [user(f"<image>\n{phrasing}"), assistant(scene.caption())]
        kind, said, (row,) = next(talks)
        assert (kind, said, table.pictures[row]) == ("caption", described, number)
        while questions:
            kind, asked, (row,) = next(talks)
            (first, *others), questions = questions[:2], questions[2:]
            assert (kind, table.pictures[row]) == ("qa", number)
            texts = [f"<image>\n{first.text}", *(q.text for q in others)]
            assert contents(asked, "user") == texts
            assert contents(asked, "assistant") == [q.answer for q in (first, *others)]
            assert [m["role"] for m in asked] == ["user", "assistant"] * len(texts)
    assert next(talks, None) is None
    images = table.images(table.image_rows)
    assert len(images) == size
    for image, (scene, _) in zip(images, drawn, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(render(scene, split)))
    assert not table.has("audio").any()
    assert not table.skipped


def test_a_spoken_caption_is_asked_for_in_a_row_of_its_own(tmp_path):
    tables = {
        speech: load_conversations(
            ConversationsConfig(**SMALL | {"val_scenes": 2}, speech=speech), tmp_path, "val"
        )
        for speech in (True, "asked")
    }
    beside, asked = tables.values()
    assert beside.has("audio").tolist() == [kind == "caption" for kind in beside.column("kind")]
    assert asked.has("audio").tolist() == [kind == "spoken" for kind in asked.column("kind")]
    talks = asked.conversations
    heard = [n for n, kind in enumerate(talks.kinds) if kind == "spoken"]
    captions = [talks.messages[n][1] for n, kind in enumerate(talks.kinds) if kind == "caption"]
    for number, caption in zip(heard, captions, strict=True):
        assert talks.messages[number] == [user("<audio>\nWhat is said?"), caption]
        assert talks.pictures[number] == []
    clips = [table.clips(np.flatnonzero(table.has("audio"))) for table in tables.values()]
    for one, other in zip(*clips, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scenes_are_made_once_for_each_config(tmp_path, monkeypatch):
    config = ConversationsConfig(**SMALL)
    first = load_conversations(config, tmp_path, "val")

    def again(*args):
        raise AssertionError("made again")

    monkeypatch.setattr("edge_lib.sources.scenes.conversations.ask", again)
    second = load_conversations(config, tmp_path, "val")
    assert second.fingerprint == first.fingerprint
    assert second.conversations.messages == first.conversations.messages
    for other in (
        config.model_copy(update={"seed": 1}),
        config.model_copy(update={"per_scene": 5}),
    ):
        with pytest.raises(AssertionError, match="made again"):
            load_conversations(other, tmp_path, "val")


def test_the_caption_is_spoken_where_speech_is_asked_for(tmp_path, monkeypatch):
    config = ConversationsConfig(**SMALL, speech=True)
    table = load_conversations(config, tmp_path, "test")
    described = [kind == "caption" for kind in table.conversations.kinds]
    assert table.has("audio").tolist() == described
    assert sum(described) == 3
    assert all(len(clip) > RATE for clip in table.clips(np.flatnonzero(described)))
    silent = load_conversations(ConversationsConfig(**SMALL), tmp_path, "test")
    assert table.conversations.messages == silent.conversations.messages
    said = []
    monkeypatch.setattr(
        "edge_lib.sources.scenes.table.speak", lambda *args: said.append(args) or speak(*args)
    )
    for number, (scene, questions) in enumerate(scenes_asked(config, "test")):
        caption, *asked = scene_rows(config, "test", number, scene, questions)
        text, voice = said[-1]
        assert text == scene.caption()
        assert voice.name.split("+")[1] in VARIANTS["test"]
        assert caption["audio"][:4] == b"fLaC"
        assert not any("audio" in row or "image" in row for row in asked)


# --- LLaVA -----------------------------------------------------------------------------------


@pytest.fixture
def llava(tmp_path, encode_image):
    """llava([entry, ...]) -> a config that reads them; images a, b and c are there."""
    (tmp_path / "images").mkdir()
    for seed, name in enumerate("abc"):
        content = encode_image(seed, "JPEG", size=(10 + seed, 8))
        (tmp_path / "images" / f"{name}.jpg").write_bytes(content)

    def make(entries, **changes):
        (tmp_path / "llava.json").write_text(json.dumps(entries))
        files = {"train": str(tmp_path / "llava.json")}
        where = {"files": files, "images": str(tmp_path / "images")}
        return ConversationsConfig(source="llava", llava={**where, **changes})

    return make


def said(*values):
    """LLaVA's conversation, people and model in turn."""
    speakers = ("human", "gpt") * len(values)
    return [{"from": who, "value": value} for who, value in zip(speakers, values, strict=False)]


def test_llava_as_it_comes(llava, tmp_path):
    config = llava(
        [
            {"id": "x", "image": "a.jpg", "conversations": said("<image>\nwhat?", "a cat")},
            {
                "id": "x",
                "image": "a.jpg",
                "conversations": said("how?", "so", "why\n<image>", "no"),
            },
            {"id": 7, "image": "b.jpg", "conversations": said("where?", "there", "when?", "then")},
            {"id": "t", "conversations": said("one?", "two")},
            {"image": ["b.jpg"], "conversations": said("<image>\nwho?", "he")},
            {"id": "m", "image": "a.jpg", "conversations": said("<image> <image>", "two")},
            {"id": "t", "conversations": said("an <image>?", "no")},
            {"id": "n", "image": "c.jpg", "conversations": []},
            {"id": "n"},
            {"id": "o", "conversations": [{"from": "bing", "value": "x"}, *said("y", "z")]},
        ]
    )
    table = load_conversations(config, tmp_path, "train")
    found = table.conversations
    assert [table.ids[row] for row in found.rows] == ["x-0", "x-1", "7-2", "t-3", "llava-4"]
    assert [contents(messages, "user") for messages in found.messages] == [
        ["<image>\nwhat?"],
        ["how?", "why\n<image>"],
        ["<image>\nwhere?", "when?"],  # it did not say where its image comes
        ["one?"],
        ["<image>\nwho?"],
    ]
    assert [contents(messages, "assistant") for messages in found.messages] == [
        ["a cat"],
        ["so", "no"],
        ["there", "then"],
        ["two"],
        ["he"],
    ]
    widths = [image and image.width for image in table.images(table.image_rows)]
    shown = [[widths[table.pictures[row]] for row in rows] for rows in found.pictures]
    assert shown == [[10], [10], [11], [], [11]]
    assert widths == [10, 11, None, 12]  # those without one share that they have none
    assert found.kinds == ["llava"] * 5
    assert table.skipped == {
        "<image> without an image": ["m-5", "t-6"],
        "no conversation": ["n-7", "n-8"],
        "a turn without role or text": ["o-9"],
        "no image": ["t-3"],
    }


def test_llava_with_several_images(llava, tmp_path):
    two = ["a.jpg", "b.jpg"]
    entries = [
        {"id": "p", "image": two, "conversations": said("<image>\n<image>\nsame?", "no")},
        {
            "id": "q",
            "image": ["c.jpg", "a.jpg"],
            "conversations": said("<image>", "c", "<image>", "a"),
        },
        {"id": "r", "image": two, "conversations": said("<image>\nsame?", "no")},
    ]
    table = load_conversations(llava(entries), tmp_path, "train")
    found = table.conversations
    assert table.ids == ["p-0", "q-1", "r-2", "b.jpg"]  # c and a are the first of some row
    images = table.images(table.image_rows)
    shown = [[images[table.pictures[row]].width for row in rows] for rows in found.pictures]
    assert shown == [[10, 11], [12, 10]]
    assert table.skipped == {"an image without <image>": ["r-2"]}


def test_a_missing_image_is_counted_when_it_is_asked_for(llava, tmp_path):
    entries = [
        {"id": "x", "image": name, "conversations": said("<image>\nwhat?", "a cat")}
        for name in ("gone.jpg", "a.jpg")
    ]
    table = load_conversations(llava(entries), tmp_path, "train")
    assert table.conversations.pictures == [[0], [1]]
    assert not table.skipped
    gone, there = table.images(table.image_rows)
    assert (gone, there.width) == (None, 10)
    assert table.skipped == {"image does not decode": ["x-0"]}


def test_what_is_not_there_is_named_with_its_key(llava, tmp_path):
    entries = [{"conversations": said("one?", "two")}]
    gone = tmp_path / "gone"
    for changes, split, error in (
        ({}, "val", r"data\.conversations\.llava\.files has no 'val', only \['train'\]"),
        ({"files": {"train": str(gone)}}, "train", r"llava\.files\.train: no such file .*gone"),
        ({"images": str(gone)}, "train", r"data\.conversations\.llava\.images: no such .*gone"),
    ):
        with pytest.raises(ConfigError, match=error):
            load_conversations(llava(entries, **changes), tmp_path, split)


@pytest.mark.parametrize(
    "content",
    [
        [],
        [1],
        {"conversations": []},
        [{"image": "a.jpg", "caption": "a cat"}],
        [{"conversations": ["one?", "two"]}],
        [{"conversations": [{"from": "human", "value": {"text": "one?"}}, *said("a", "b")]}],
        [{"image": 3, "conversations": said("one?", "two")}],
    ],
)
def test_a_json_of_another_shape_is_named(llava, tmp_path, content):
    error = r"data\.conversations\.llava\.files\.train: .*llava\.json is not LLaVA's json"
    with pytest.raises(ConfigError, match=error):
        load_conversations(llava(content), tmp_path, "train")


def test_a_broken_json_is_named(llava, tmp_path):
    config = llava([])
    (tmp_path / "llava.json").write_text('[{"id"')
    with pytest.raises(ConfigError, match=r"llava\.json is not LLaVA's json: JSONDecodeError"):
        load_conversations(config, tmp_path, "train")


# --- instructions ----------------------------------------------------------------------------

ORCA = [
    {"id": "n1", "system_prompt": "Be brief.", "question": "One plus one?", "response": "Two."},
    {"id": "n2", "system_prompt": "", "question": "Why?", "response": "So.\u2028And so."},
    {"id": "n3", "system_prompt": None, "question": "", "response": "Nothing."},
    {"id": "n4", "system_prompt": " ", "question": "Who?", "response": None},
]


@pytest.fixture
def orca(tmp_path):
    """The same four rows as Parquet and as jsonl."""
    pq.write_table(pa.Table.from_pylist(ORCA), tmp_path / "orca.parquet")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ORCA]
    (tmp_path / "orca.jsonl").write_text("".join(lines) + "\n", "utf-8")
    return tmp_path


def test_parquet_rows_are_of_the_one_table_schema(tmp_path, encode_image):
    turns = [user("<image> <audio>?"), assistant("yes")]
    rows = [
        {"id": "both", "turns": turns, "image": encode_image(), "audio": b"fLaC"},
        {"id": "one", "turns": turns, "image": encode_image(), "audio": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-0.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "val-0.parquet")
    files = {split: [str(tmp_path / f"{split}-*.parquet")] for split in ("train", "val")}
    config = ConversationsConfig(source="parquet", parquet=files)
    table = load_conversations(config, tmp_path, "train")
    assert table.conversations.messages == [turns]
    assert table.conversations.pictures == [[0]]
    assert table.skipped == {"<audio> without a clip": ["one"]}
    with pytest.raises(ConfigError, match=r"no column 'turns'; it has \['id'\]"):
        load_conversations(config, tmp_path, "val")
    with pytest.raises(ConfigError, match=r"conversations\.parquet has no 'test', only"):
        load_conversations(config, tmp_path, "test")
    with pytest.raises(ValueError, match=r"'parquet' needs data\.conversations\.parquet"):
        ConversationsConfig(source="parquet")


@pytest.mark.parametrize("name", ["orca.parquet", "orca.jsonl", "orc*.jsonl"])
@pytest.mark.parametrize("source", ["scenes", "llava"])
def test_instructions_follow_the_conversations(orca, llava, name, source):
    entries = [{"id": "x", "image": "a.jpg", "conversations": said("<image>\nwhat?", "a cat")}]
    plain = ConversationsConfig(**SMALL) if source == "scenes" else llava(entries)
    more = {"files": {"train": [str(orca / name)]}}
    config = ConversationsConfig(**{**plain.model_dump(), "instructions": more})
    alone, table = (load_conversations(c, orca / "cache", "train") for c in (plain, config))
    size = len(alone)
    assert len(table) == size + 4
    assert table.fingerprint != alone.fingerprint
    found, before = table.conversations, alone.conversations
    assert found.messages[:-2] == before.messages
    assert found.pictures == [*before.pictures, [], []]
    assert found.messages[-2:] == [
        [{"role": "system", "content": "Be brief."}, user("One plus one?"), assistant("Two.")],
        [user("Why?"), assistant("So.\u2028And so.")],
    ]
    assert found.kinds[-2:] == ["instruction"] * 2
    assert table.skipped == {"a turn without role or text": ["orca-2", "orca-3"]}
    images = table.images(table.image_rows)
    assert len(images) == len(alone.image_rows) + 1  # all instructions share that they have none
    assert [image is None for image in images] == [False] * len(alone.image_rows) + [True]
    if source == "scenes":
        names = (config, orca / "cache", "val")
        assert set(load_conversations(*names).conversations.kinds) == {"caption", "qa"}


def test_instructions_of_another_shape_are_named(orca):
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), orca / "qa.parquet")
    (orca / "bad.jsonl").write_text('{"question": "a", "response": "b"}\n{"quest')
    (orca / "text.parquet").write_text("text")
    key = r"data\.conversations\.instructions\.files\.train: "
    for name, error in (
        ("gone-*.parquet", rf"{key}no file matches .*gone-\*\.parquet"),
        ("qa.parquet", rf"{key}.*qa\.parquet is not Open-Orca's: KeyError\('response'\)"),
        ("bad.jsonl", rf"{key}.*bad\.jsonl is not Open-Orca's: JSONDecodeError"),
        ("text.parquet", rf"{key}.*text\.parquet is not Open-Orca's: ArrowInvalid"),
    ):
        files = {"train": [str(orca / name)]}
        config = ConversationsConfig(**SMALL, instructions={"files": files})
        with pytest.raises(ConfigError, match=error):
            load_conversations(config, orca / "cache", "train")
