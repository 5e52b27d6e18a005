"""Conversations in the formats that people have, as json, jsonl and Parquet."""

import base64
import gzip
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversation_helpers import assistant, load_conversations, user
from datasets import Dataset

from edge_lib.config import ConfigError, ConversationsConfig
from edge_lib.data.conversations import read_conversations
from edge_lib.sources import conversation_rows
from edge_lib.sources.split_names import SPLITS

TURNS = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}]
EXPECTED = [user("<image>\nwhat?"), assistant("a cat")]


@pytest.fixture
def folder(tmp_path, encode_image):
    """A folder with the pictures a, b and c, of the widths 10, 11 and 12."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate("abc"):
        content = encode_image(number, "JPEG", size=(10 + number, 8))
        (folder / f"{name}.jpg").write_bytes(content)
    return folder


@pytest.fixture
def load(folder):
    """load(content, name) -> the table of a file with this content, beside the pictures."""

    def load(content, name="chat.json", **section):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        (folder / name).write_bytes(content)
        files = {"train": [str(folder / name)]}
        config = ConversationsConfig(source="messages", messages={"files": files, **section})
        return load_conversations(config, folder.parent / "cache", "train")

    return load


def widths(table):
    """For each conversation, the widths of its images."""
    images = [image and image.width for image in table.images(table.image_rows)]
    rows_of = read_conversations(table).image_rows
    return [[images[table.image_index[row]] for row in rows] for rows in rows_of]


@pytest.mark.parametrize(
    ("human", "model"),
    [
        ("human", "gpt"),
        ("human", "assistant"),
        ("user", "assistant"),
        ("User", "ASSISTANT"),
        ("user ", "model"),
        ("human", "bot"),
        ("HUMAN", "ChatGPT"),
    ],
)
def test_messages_know_the_names_of_roles(load, human, model):
    turns = [{"from": human, "value": "<image>\nwhat?"}, {"from": model, "value": "a cat"}]
    table = load([{"image": "a.jpg", "conversations": turns}])
    assert read_conversations(table).messages == [EXPECTED]
    assert widths(table) == [[10]]
    assert not table.skipped


DATA_URI = "data:image/jpeg;base64,"
QUESTION, ANSWER = {"type": "text", "text": "what?"}, {"role": "assistant", "content": "a cat"}


def with_parts(*parts, **beside):
    return {"messages": [{"role": "user", "content": [*parts]}, ANSWER], **beside}


ENTRIES = {
    "image beside turns": {"image": "a.jpg", "conversations": TURNS},
    "images beside turns": {"images": ["a.jpg"], "messages": TURNS},
    "image without placeholder": {"images": ["a.jpg"], "messages": [user("what?"), ANSWER]},
    "path in a part": with_parts({"type": "image", "image": "a.jpg"}, QUESTION),
    "path and list": with_parts({"type": "image", "image": "a.jpg"}, QUESTION, images=["a.jpg"]),
    "part for an image beside": with_parts({"type": "image"}, QUESTION, images=["a.jpg"]),
    "nulls in parts": with_parts(
        {"type": "image", "text": None, "index": 0},
        {"type": "text", "text": "what?", "index": None},
        images=[{"bytes": None, "path": "a.jpg"}],
    ),
    "url of a file": with_parts(
        {"type": "image_url", "image_url": {"url": "file://{folder}/a.jpg"}}, QUESTION
    ),
    "data URI": with_parts({"type": "image_url", "image_url": {"url": "{uri}"}}, QUESTION),
    "data URI as text": with_parts({"type": "input_image", "image_url": "{uri}"}, QUESTION),
    "parts without a type": with_parts({"image": "a.jpg"}, {"text": "what?"}),
    "texts as parts": with_parts({"type": "image", "path": "a.jpg"}, "what?"),
    "one part": {"messages": [{"role": "user", "content": QUESTION}, ANSWER], "image": "a.jpg"},
    "absolute path": {"image": "{folder}/a.jpg", "turns": TURNS},
    "JSON in a text": {"image": "a.jpg", "conversations": json.dumps(TURNS)},
    "an object of lists": {
        "image": "a.jpg",
        "conversations": {"from": ["human", "gpt"], "value": ["<image>\nwhat?", "a cat"]},
    },
    "text for content": {
        "image": "a.jpg",
        "conversation": [{"role": "user", "text": "what?"}, {"role": "bot", "text": "a cat"}],
    },
    "one object a round": {
        "images": ["a.jpg"],
        "conversations": [{"user": "<image>\nwhat?", "assistant": "a cat", "source": "x"}],
    },
    "path of Windows": {"image": "..\\data\\a.jpg", "conversations": TURNS},
    "types in capitals": with_parts({"type": "IMAGE", "image": "a.jpg"}, QUESTION),
    "nulls beside": {"image": None, "images": ["a.jpg"], "videos": [], "messages": TURNS},
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_messages_read_one_conversation_in_many_formats(load, folder, entry):
    uri = DATA_URI + base64.b64encode((folder / "a.jpg").read_bytes()).decode()
    text = json.dumps([entry]).replace("{folder}", str(folder)).replace("{uri}", uri)
    table = load(text.encode())
    assert read_conversations(table).messages == [EXPECTED]
    assert widths(table) == [[10]]
    assert not table.skipped


def test_messages_may_differ_in_format_within_a_file(load, folder):
    """Arrow refuses a column of texts and lists: entries are parsed before they are a column."""
    uri = DATA_URI + base64.b64encode((folder / "a.jpg").read_bytes()).decode()
    lines = "\n".join(map(json.dumps, ENTRIES.values()))
    table = load(lines.replace("{folder}", str(folder)).replace("{uri}", uri).encode(), "a.jsonl")
    assert read_conversations(table).messages == [EXPECTED] * len(ENTRIES)
    assert widths(table) == [[10]] * len(ENTRIES)


def as_text(entries, end="\n"):
    return "".join(json.dumps(entry) + end for entry in entries).encode()


ENTRY = {"image": "a.jpg", "conversations": TURNS}
FILES = {
    "json": ("chat.json", json.dumps([ENTRY, ENTRY]).encode()),
    "indented json": ("chat.json", json.dumps([ENTRY, ENTRY], indent=2).encode()),
    "json with a byte order mark": (
        "chat.json",
        b"\xef\xbb\xbf" + json.dumps([ENTRY] * 2).encode(),
    ),
    "json in UTF-16": ("chat.json", json.dumps([ENTRY] * 2).encode("utf-16")),
    "json with Windows line ends": (
        "chat.json",
        json.dumps([ENTRY] * 2, indent=1).replace("\n", "\r\n").encode(),
    ),
    "json in a field": ("chat.json", json.dumps({"version": 1, "data": [ENTRY, ENTRY]}).encode()),
    "field called conversations": (
        "chat.json",
        json.dumps({"conversations": [ENTRY] * 2}).encode(),
    ),
    "jsonl": ("chat.jsonl", as_text([ENTRY, ENTRY])),
    "jsonl with empty lines": ("chat.jsonl", b"\n" + as_text([ENTRY, ENTRY], "\n\n")),
    "jsonl with a byte order mark": ("chat.jsonl", b"\xef\xbb\xbf" + as_text([ENTRY, ENTRY])),
    "jsonl with Windows line ends": ("chat.jsonl", as_text([ENTRY, ENTRY], "\r\n")),
    "jsonl without a last line end": ("chat.jsonl", as_text([ENTRY, ENTRY]).rstrip()),
    "compressed jsonl": ("chat.jsonl.gz", gzip.compress(as_text([ENTRY, ENTRY]))),
    "compressed json": ("chat.json.gz", gzip.compress(json.dumps([ENTRY, ENTRY]).encode())),
    "jsonl called json": ("chat.json", as_text([ENTRY, ENTRY])),
    "json called jsonl": ("chat.jsonl", json.dumps([ENTRY, ENTRY], indent=2).encode()),
}


@pytest.mark.parametrize(("name", "content"), FILES.values(), ids=FILES)
def test_messages_read_files_in_many_formats(load, name, content):
    table = load(content, name)
    stem = name.rpartition(".")[0]
    assert table.ids == [f"{stem}-0", f"{stem}-1"]
    assert read_conversations(table).messages == [EXPECTED] * 2
    assert widths(table) == [[10]] * 2


def test_messages_read_turns_alone_and_objects_alone(load):
    for content in ([TURNS], {"image": "a.jpg", "messages": TURNS}, {"conversations": TURNS}):
        text = json.dumps(content).replace("<image>\\n", "").encode()
        table = load(text)
        assert [m["content"][-5:] for m in read_conversations(table).messages[0]] == [
            "what?",
            "a cat",
        ]


def test_messages_skip_odd_entries_and_keep_the_others(load):
    turns = [user("why?"), ANSWER]
    odd = {
        "not an object": [3, None, "text"],
        "turns are not a list of objects": [{"messages": "[1, 2]"}, {"messages": {"0": turns}}],
        "turns are not JSON": [{"messages": "[{'role': 'user'}]"}],
        "no conversation": [{"image": "a.jpg", "caption": "a cat"}],
        "content is not a text": [
            {"messages": [user(5), ANSWER]},
            {"messages": [user([["why?"]]), ANSWER]},
            {"messages": [user([{"type": "text", "text": None}]), ANSWER]},
            {"messages": [user({"x": "why?"}), ANSWER]},
            {"messages": [user([{"type": None, "image": None}]), ANSWER]},
        ],
        "video": [
            {"video": "a.mp4", "conversations": TURNS},
            {"videos": ["a.mp4"], "messages": turns},
            with_parts({"type": "video", "video": "a.mp4"}, QUESTION),
            with_parts({"type": "video_url", "video_url": {"url": "a.mp4"}}, QUESTION),
        ],
        "a part of type 'tool_use'": [with_parts({"type": "tool_use", "input": {}}, QUESTION)],
        "image is not a path": [
            {"image": 7, "messages": TURNS},
            {"image": {"id": 7}, "messages": TURNS},
            {"image": " ", "messages": TURNS},
            with_parts({"type": "image", "image": ["a.jpg"]}, QUESTION),
        ],
        "image is a URL": [{"image": "https://a.org/a.jpg", "messages": TURNS}],
        "image is not a data URI: a data URI without a comma": [
            {"image": "data:image/png;base64", "messages": TURNS}
        ],
    }
    entries = [entry for group in odd.values() for entry in group]
    good = {"id": "good", "messages": turns}
    table = load([good, *entries, good])
    assert table.ids == ["good-0", f"good-{len(entries) + 1}"]
    assert read_conversations(table).messages == [turns, turns]
    numbers = iter(range(1, len(entries) + 1))
    assert table.skipped == {
        reason: [f"chat-{next(numbers)}" for _ in group] for reason, group in odd.items()
    }


def test_messages_skip_conversations_that_cannot_be_used(load):
    turns = {
        "a turn without role or text": [{"from": "tool", "value": "x"}, *TURNS],
        "no assistant turn": TURNS[:1],
        "<image> without an image": [*TURNS, user("<image> again?"), ANSWER],
    }
    entries = [{"id": name, "image": "a.jpg", "messages": turns[name]} for name in turns]
    two = [*TURNS, {"from": "gpt", "value": "and a dog"}]
    table = load([*entries, {"image": "b.jpg", "messages": two}])
    messages = read_conversations(table).messages
    assert [m["role"] for m in messages[0]] == ["user", "assistant", "assistant"]
    assert table.skipped == {name: [f"{name}-{n}"] for n, name in enumerate(turns)}


@pytest.mark.parametrize(
    "turn",
    [
        {"from": "tool", "value": "x"},
        {"from": None, "value": "x"},
        {"from": 3, "value": "x"},
        {"value": "x"},
        {"from": "human", "value": ""},
        {"from": "human", "value": [{"text": ""}]},
        {"from": "human", "content": None},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]},
    ],
    ids=["tool", "null", "number", "no role", "empty", "empty part", "no text", "call of a tool"],
)
def test_messages_skip_a_turn_without_role_or_text(load, turn):
    table = load([{"messages": [turn, user("why?"), ANSWER]}, {"messages": [user("?"), ANSWER]}])
    assert len(read_conversations(table)) == 1
    assert table.skipped == {"a turn without role or text": ["chat-0"]}


def test_messages_keep_the_order_of_images(load):
    parts = [{"type": "image", "image": "c.jpg"}, QUESTION, {"type": "image", "image": "a.jpg"}]
    mixed = [{"type": "image"}, {"type": "image", "image": "c.jpg"}, QUESTION, {"type": "image"}]
    texts = [user("<image> or <image>?"), ANSWER, user("or <image>?"), ANSWER]
    table = load(
        [
            with_parts(*parts),
            with_parts(*mixed, images=["a.jpg", "b.jpg"]),
            {"images": ["c.jpg", "b.jpg", "c.jpg"], "messages": texts},
            {"images": ["a.jpg", "b.jpg"], "messages": [user("<image>?"), ANSWER]},
            {"image": "b.jpg", "messages": [user("?"), {**ANSWER, "content": "an <image>"}]},
        ]
    )
    assert widths(table) == [[12, 10], [10, 12, 11], [12, 11, 12], [11]]
    assert read_conversations(table).messages[0][0]["content"] == "<image>\nwhat?\n<image>"
    assert table.skipped == {"an image without <image>": ["chat-3"]}


def test_messages_tell_images_of_one_name_in_two_folders_apart(folder, encode_image):
    other = folder.parent / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes(encode_image(9, "JPEG", size=(20, 8)))
    for path in (folder, other):
        (path / "chat.json").write_text(json.dumps([ENTRY]))
    files = {"train": [f"{folder.parent}/*/chat.json"]}
    config = ConversationsConfig(source="messages", messages={"files": files})
    assert widths(load_conversations(config, folder.parent, "train")) == [[10], [20]]
    config.messages.images = folder
    assert widths(load_conversations(config, folder.parent, "train")) == [[10], [10]]


def test_messages_have_a_clip_and_a_system_prompt(load, folder):
    (folder / "a.wav").write_bytes(b"RIFF")
    encoded = base64.b64encode(b"RIFF").decode()
    question = {"type": "text", "text": "who?"}
    clips = [
        with_parts({"type": "audio", "audio": "a.wav"}, question, system="Be brief."),
        with_parts(
            {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}, question
        ),
        {"audios": ["a.wav"], "messages": [user("<audio>\nwho?"), ANSWER], "system": ""},
    ]
    table = load(clips)
    messages = read_conversations(table).messages
    assert messages[0][0] == {"role": "system", "content": "Be brief."}
    assert [m[-2:] for m in messages] == [[user("<audio>\nwho?"), ANSWER]] * 3
    cells = table.dataset["audio"][:]
    assert [cell["path"] or cell["bytes"] for cell in cells] == [
        str(folder / "a.wav"),
        b"RIFF",
        str(folder / "a.wav"),
    ]


def test_messages_survive_broken_lines_and_broken_texts(load):
    lines = [
        json.dumps({"id": "cut emoji \ud83d", "messages": [user("so \ud83d"), ANSWER]}).encode(),
        b'{"messages": [{"role": "user", "content": "cut off',
        b'{"messages": "\xff"}',
        json.dumps({"id": 0, "messages": [user("line\u2028separator"), ANSWER]}).encode(),
        json.dumps({"id": "", "messages": [user("\U0001f600"), ANSWER]}).encode(),
    ]
    table = load(b"\n".join(lines), "chat.jsonl")
    assert table.ids == ["cut emoji ?-0", "0-3", "chat-4"]
    questions = [messages[0]["content"] for messages in read_conversations(table).messages]
    assert questions == ["so ?", "line\u2028separator", "\U0001f600"]
    assert table.skipped == {"not JSON": ["chat-1", "chat-2"]}


def test_messages_are_parsed_once_and_again_when_they_change(load, monkeypatch):
    parse, parsed = conversation_rows.parse_conversation, []

    def counted(entry, columns):
        parsed.append(entry)
        return parse(entry, columns)

    monkeypatch.setattr(conversation_rows, "parse_conversation", counted)
    first = load([ENTRY, 3])
    assert load([ENTRY, 3]).skipped == first.skipped == {"not an object": ["chat-1"]}
    assert len(parsed) == 2
    changed = load([ENTRY, ENTRY])
    assert (len(changed), changed.skipped) == (2, {})
    assert len(parsed) == 4


def test_messages_fingerprint_follows_the_content(load, folder, encode_image):
    def fingerprint():
        return load([ENTRY, {"image": "late.jpg", "messages": TURNS}]).fingerprint

    first = fingerprint()
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert fingerprint() == first
    (folder / "late.jpg").write_bytes(encode_image(5, "JPEG"))
    late = fingerprint()
    assert late != first
    content = bytearray((folder / "a.jpg").read_bytes())
    content[-20] ^= 1
    (folder / "a.jpg").write_bytes(content)
    assert fingerprint() not in (first, late)


def test_messages_fingerprint_names_the_column(load):
    entries = [{"image": "a.jpg", "messages": TURNS, "short": TURNS[1:]}]
    tables = [load(entries, column=column) for column in (None, "messages", "short")]
    assert len({table.fingerprint for table in tables}) == 3  # tokens are kept under it


def test_messages_in_a_copied_folder_keep_their_fingerprint(load, folder):
    first = load([ENTRY]).fingerprint
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    files = {"train": [str(copy / "chat.json")]}
    config = ConversationsConfig(source="messages", messages={"files": files})
    table = load_conversations(config, folder.parent / "cache", "train")
    assert table.fingerprint == first
    assert Path(table.dataset[0]["image"]["path"]).parent == copy
    shutil.copy(folder / "b.jpg", copy / "a.jpg")  # another picture of the same name
    table = load_conversations(config, folder.parent / "cache", "train")
    assert table.fingerprint != first
    assert widths(table) == [[11]]


@pytest.mark.parametrize("column", ["messages", "conversations", "turns", "texts"])
def test_messages_in_parquet_have_several_images(load, folder, column):
    cells = [{"bytes": (folder / f"{n}.jpg").read_bytes(), "path": f"{n}.jpg"} for n in "abc"]
    turns = [{"role": "User", "content": "<image> <image>?"}, {"role": "gpt", "content": "yes"}]
    rows = [
        {"id": 7, "images": cells[1:], column: turns},
        {"id": None, "images": cells[:1], column: [user("<image>?"), assistant("no")]},
        {"id": 9, "images": None, column: None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "chat.parquet")
    content = (folder / "chat.parquet").read_bytes()
    section = {"column": "texts"} if column == "texts" else {}
    table = load(content, "chat.parquet", **section)
    assert widths(table) == [[11, 12], [10]]
    assert table.ids[0] == "7-0"
    expected = [[user("<image> <image>?"), assistant("yes")], [user("<image>?"), assistant("no")]]
    assert read_conversations(table).messages == expected


def test_messages_are_divided_with_all_their_images(folder, encode_image):
    """Fifteen groups of three conversations about two pictures of their own, ten about none."""
    entries = []
    for number in range(15):
        names = [f"{number}-{side}.jpg" for side in "ab"]
        for name, width in zip(names, (number + 1, 100), strict=True):
            content = encode_image(2 * number + (width == 100), "JPEG", size=(width, 5))
            (folder / name).write_bytes(content)
        both, mark = [user("<image> <image>?"), ANSWER], [user("<image>?"), ANSWER]
        entries += [
            {"id": number, "images": names, "messages": both},
            {"id": number, "image": names[1], "messages": mark},
            {"id": number, "images": names[::-1], "messages": both},
        ]
    entries += [{"id": "text", "messages": [user(f"{n}?"), ANSWER]} for n in range(10)]
    (folder / "all.json").write_text(json.dumps([*entries, "odd"]))
    files = {"train": str(folder / "all.json")}
    shares = {"val": 0.2, "test": 0.2}
    config = ConversationsConfig(source="messages", messages={"files": files}, split=shares)
    numbers, texts, skipped = [], [], []
    for split in SPLITS:
        table = load_conversations(config, folder.parent / "cache", split)
        conversations = read_conversations(table)
        names = [table.ids[row] for row in conversations.rows]
        groups = [name.partition("-")[0] for name in names]
        numbers.append({group for group in groups if group != "text"})
        texts.append([name for name in names if name.startswith("text")])
        assert len(names) == 3 * len(numbers[-1]) + len(texts[-1])
        skipped.append(dict(table.skipped))
        images = table.images(table.image_rows)
        for rows, group in zip(conversations.image_rows, groups, strict=True):
            own = {images[table.image_index[row]].width for row in rows}
            assert group == "text" or own <= {int(group) + 1, 100}
    assert sum(map(len, numbers)) == len(set().union(*numbers)) == 15
    assert sorted(name for names in texts for name in names) == sorted(
        f"text-{n}" for n in range(45, 55)
    )
    assert all(numbers)
    assert all(texts)
    assert skipped == [{"not an object": ["all-55"]}, {}, {}]
    copy = shutil.copytree(folder, folder.parent / "copy")
    config.messages.files["train"] = [str(copy / "all.json")]
    tables = [load_conversations(config, folder.parent / "cache", split) for split in SPLITS]
    expected = [numbers[n] | {"text"} for n in range(3)]
    assert [
        {name.partition("-")[0] for name in t.ids if "jpg" not in name} for t in tables
    ] == expected


@pytest.mark.parametrize("source", ["messages", "hub"])
def test_messages_skip_rows_that_are_not_utf8(source, load, folder):
    names = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    table = pa.table({"id": names, "messages": [EXPECTED] * 3, "image": [f"{folder}/a.jpg"] * 3})
    if source == "messages":
        pq.write_table(table, folder / "chat.parquet")
        skipped = load((folder / "chat.parquet").read_bytes(), "chat.parquet").skipped
    else:
        Dataset(table).save_to_disk(folder / "saved")
        config = ConversationsConfig(source="hub", hub={"name": str(folder / "saved")})
        skipped = load_conversations(config, folder.parent / "cache", "train").skipped
    assert skipped == {"not UTF-8": ["chat-1" if source == "messages" else "train-1"]}


@pytest.mark.parametrize("question", ["", " \t\n", None])
def test_messages_skip_a_question_of_nothing_about_an_image(load, question):
    table = load([{"image": "a.jpg", "messages": [user(question), assistant("a cat")]}])
    assert len(read_conversations(table)) == 0
    assert [s.reason for s in read_conversations(table).skipped.values()] == [
        "a turn without role or text"
    ]


def test_messages_leave_out_empty_files(folder):
    rows = [{"messages": [user("why?"), ANSWER]}]
    schema = pa.Table.from_pylist(rows).schema
    pq.write_table(pa.Table.from_pylist([], schema), folder / "0.parquet")
    pq.write_table(pa.Table.from_pylist(rows), folder / "1.parquet")
    (folder / "2.jsonl").write_text("")
    files = {"train": [f"{folder}/*.parquet", f"{folder}/2.jsonl"]}
    config = ConversationsConfig(source="messages", messages={"files": files})
    assert load_conversations(config, folder.parent, "train").ids == ["1-0"]


def test_messages_errors_name_the_config_key(load, folder):
    key = r"data\.conversations\.messages\."
    with pytest.raises(ConfigError, match=rf"{key}images: no such folder .*gone"):
        load([ENTRY], images=str(folder / "gone"))
    with pytest.raises(
        ConfigError, match=rf"{key}files\.train: .* no conversation \(keys: image, "
    ):
        load([ENTRY], column="chat")
    with pytest.raises(ConfigError, match=rf"{key}files\.train: .*chat\.json is not JSON"):
        load(b"[1, 2")
    with pytest.raises(ConfigError, match=rf"{key}files\.train: .*chat\.json\.gz: .*zlib"):
        load(b"no gzip", "chat.json.gz")
    with pytest.raises(ConfigError, match=rf"{key}files\.train: .*chat\.parquet is not a Parquet"):
        load(b"no Parquet", "chat.parquet")
    files = {"train": [str(folder / "chat.json")]}
    config = ConversationsConfig(source="messages", messages={"files": files})
    with pytest.raises(ConfigError, match=rf"{key}files has no split 'val', only \['train'\]"):
        load_conversations(config, folder, "val")


def test_damaged_page_of_messages_is_refused_with_its_file(load, folder):
    path, options = folder / "chat.parquet", {"compression": None, "write_page_checksum": True}
    pq.write_table(pa.table({"messages": [EXPECTED]}), path, use_dictionary=False, **options)
    damaged = path.read_bytes().replace(b"a cat", b"a bat")
    error = r"messages\.files\.train: .*chat\.parquet is damaged: .*CRC"
    with pytest.raises(ConfigError, match=error):
        load(damaged, path.name)
