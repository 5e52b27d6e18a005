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
    assert table.skipped == {"<audio> without a clip": ["one"]}
    with pytest.raises(ConfigError, match=r"no column 'turns'; it has \['id'\]"):
        load_conversations(config, tmp_path, "val")
    with pytest.raises(ConfigError, match=r"conversations\.parquet has no split 'test', only"):
        load_conversations(config, tmp_path, "test")
    with pytest.raises(ValueError, match=r"'parquet' needs data\.conversations\.parquet"):
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
    assert table.skipped == {"a turn without role or text": ["orca-2", "orca-3"]}
    images = table.images(table.image_rows)
    assert len(images) == len(alone.image_rows) + 1  # all instructions share one missing image
    assert [image is None for image in images] == [False] * len(alone.image_rows) + [True]
    if source == "scenes":
        val = load_conversations(config, orca / "cache", "val")
        assert set(read_conversations(val).kinds) == {"caption", "qa"}


def test_instructions_reject_files_of_another_shape(orca):
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), orca / "qa.parquet")
    (orca / "bad.jsonl").write_text('{"question": "a", "response": "b"}\n{"quest')
    (orca / "text.parquet").write_text("text")
    key = r"data\.conversations\.instructions\.files\.train: "
    columns = "does not have Open-Orca's columns"
    for name, error in (
        ("gone-*.parquet", rf"{key}no file matches .*gone-\*\.parquet"),
        ("qa.parquet", rf"{key}.*qa\.parquet {columns}: KeyError\('response'\)"),
        ("bad.jsonl", rf"{key}.*bad\.jsonl {columns}: JSONDecodeError"),
        ("text.parquet", rf"{key}.*text\.parquet {columns}: ArrowInvalid"),
    ):
        files = {"train": [str(orca / name)]}
        config = ConversationsConfig(**SMALL, instructions={"files": files})
        with pytest.raises(ConfigError, match=error):
            load_conversations(config, orca / "cache", "train")
