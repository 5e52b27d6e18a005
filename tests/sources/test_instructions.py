"""Conversations in Parquet files, and instructions in Open-Orca's columns."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversation_helpers import assistant, llava_turns, load_conversations, user

from edge_lib.config import ConfigError, ConversationsConfig
from edge_lib.data.conversations import read_conversations

SMALL = {"train_scenes": 7, "val_scenes": 3, "test_scenes": 3, "per_scene": 4}
ORCA = [
    {"id": "n1", "system_prompt": "Be brief.", "question": "One plus one?", "response": "Two."},
    {"id": "n2", "system_prompt": "", "question": "Why?", "response": "So.\u2028And so."},
    {"id": "n3", "system_prompt": None, "question": "", "response": "Nothing."},
    {"id": "n4", "system_prompt": " ", "question": "Who?", "response": None},
]


@pytest.fixture
def orca(tmp_path):
    """A folder with the same four rows as Parquet and as jsonl."""
    pq.write_table(pa.Table.from_pylist(ORCA), tmp_path / "orca.parquet")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ORCA]
    (tmp_path / "orca.jsonl").write_text("".join(lines) + "\n", "utf-8")
    return tmp_path


def test_parquet_conversations_use_the_one_table_schema(tmp_path, encode_image):
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
    conversations = read_conversations(table)
    assert conversations.messages == [turns]
    assert conversations.image_rows == [[0]]
    assert table.skipped == {"<audio> without a clip": ["one-1"]}
    with pytest.raises(ConfigError, match=r"no column 'messages' or .* 'turns'; it has \['id'\]"):
        load_conversations(config, tmp_path, "val")
    with pytest.raises(ConfigError, match=r"conversations\.parquet has no split 'test', only"):
        load_conversations(config, tmp_path, "test")
    with pytest.raises(ValueError, match=r"'parquet' needs a section 'parquet' beside it"):
        ConversationsConfig(source="parquet")


@pytest.mark.parametrize("name", ["orca.parquet", "orca.jsonl", "orc*.jsonl"])
@pytest.mark.parametrize("source", ["scenes", "llava"])
def test_instructions_follow_the_conversations(orca, llava, name, source):
    turns = llava_turns("<image>\nwhat?", "a cat")
    entries = [{"id": "x", "image": "a.jpg", "conversations": turns}]
    plain = ConversationsConfig(**SMALL) if source == "scenes" else llava(entries)
    instructions = {"files": {"train": [str(orca / name)]}}
    config = ConversationsConfig(**{**plain.model_dump(), "instructions": instructions})
    alone, table = (load_conversations(c, orca / "cache", "train") for c in (plain, config))
    assert len(table) == len(alone) + 4
    assert table.fingerprint != alone.fingerprint
    after, before = read_conversations(table), read_conversations(alone)
    assert after.messages[:-2] == before.messages
    assert after.image_rows == [*before.image_rows, [], []]
    assert after.messages[-2:] == [
        [{"role": "system", "content": "Be brief."}, user("One plus one?"), assistant("Two.")],
        [user("Why?"), assistant("So.\u2028And so.")],
    ]
    assert after.kinds[-2:] == ["instruction"] * 2
    assert table.skipped == {"a turn without role or text": ["n3-2", "n4-3"]}
    images = table.images(table.image_rows)
    assert len(images) == len(alone.image_rows) + 1  # all instructions share one missing image
    assert [image is None for image in images] == [False] * len(alone.image_rows) + [True]
    if source == "scenes":
        val = load_conversations(config, orca / "cache", "val")
        assert set(read_conversations(val).kinds) == {"caption", "qa"}


def test_instructions_read_the_configured_columns(tmp_path):
    """Three columns of other names, in a json list with an odd entry."""
    entries = [
        {"instruction": "One plus one?", "output": "Two.", "persona": "Be brief."},
        {"instruction": 1, "output": "number"},
        {"instruction": "no output"},
        ["a list"],
        {"instruction": "Why?", "output": "So."},
    ]
    (tmp_path / "alpaca.json").write_text(json.dumps(entries))
    config = ConversationsConfig(
        source="instructions",
        instructions={
            "files": {"train": [str(tmp_path / "alpaca.json")]},
            "system_column": "persona",
            "question_column": "instruction",
            "response_column": "output",
        },
    )
    table = load_conversations(config, tmp_path, "train")
    assert read_conversations(table).messages == [
        [{"role": "system", "content": "Be brief."}, user("One plus one?"), assistant("Two.")],
        [user("Why?"), assistant("So.")],
    ]
    assert len(table) == 2  # the same instructions are not added a second time
    assert table.skipped == {
        "content is not a text": ["alpaca-1"],
        "no conversation": ["alpaca-2"],
        "not an object": ["alpaca-3"],
    }


def test_instructions_count_skipped_entries_of_both_parts(orca, llava):
    entries = [{"conversations": llava_turns("one?", "two")}, 5]
    (orca / "bad.jsonl").write_text('{"question": "a", "response": "b"}\n{"quest')
    instructions = {"files": {"train": [str(orca / "bad.jsonl")]}}
    config = {**llava(entries).model_dump(), "instructions": instructions}
    table = load_conversations(ConversationsConfig(**config), orca / "cache", "train")
    assert table.ids == ["llava-0", "bad-0"]
    assert table.skipped == {"not an object": ["llava-1"], "not JSON": ["bad-1"]}


def test_instructions_reject_files_of_another_shape(orca):
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), orca / "qa.parquet")
    (orca / "qa.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (orca / "text.parquet").write_text("text")
    (orca / "empty.jsonl").write_text("\n")
    key = r"data\.conversations\.instructions\.files\.train: "
    for name, error in (
        ("gone-*.parquet", rf"{key}no file matches .*gone-\*\.parquet"),
        ("qa.parquet", rf"{key}.*qa\.parquet has no column 'response'; it has \['question', 'ans"),
        (
            "qa.jsonl",
            rf"{key}.*qa\.jsonl has no usable entry: no conversation \(keys: question, ans",
        ),
        ("text.parquet", rf"{key}.*text\.parquet is not a Parquet file: "),
        ("empty.jsonl", rf"{key}.*empty\.jsonl is empty"),
    ):
        files = {"train": [str(orca / name)]}
        config = ConversationsConfig(**SMALL, instructions={"files": files})
        with pytest.raises(ConfigError, match=error):
            load_conversations(config, orca / "cache", "train")
