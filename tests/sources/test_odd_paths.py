"""Data, cache and all in a folder whose name holds characters of patterns and URLs."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversation_helpers import assistant, user

from edge_lib.config import DataConfig
from edge_lib.data.conversations import read_conversations
from edge_lib.sources import load_table

TURNS = [user("<image>\nwhat?"), assistant("a cat")]
CONVERSATIONS = {
    "llava": {"files": {"train": "chat.json"}, "images": "."},
    "messages": {"files": {"train": ["chat.json"]}},
    "parquet": {"train": ["chat-*.parquet"]},
}
QUESTIONS = {
    "vqav2": {"questions": {"train": "q.json"}, "annotations": {"train": "q.json"}},
    "gqa": {"questions": {"train": "gqa.json"}, "images": "."},
}
QUESTIONS["vqav2"]["images"] = {"train": "."}


@pytest.fixture(params=["data [v2]", "a*b?", "x::y", "#{1}~ %20", "Ordner ä"])
def folder(request, tmp_path, encode_image):
    folder = tmp_path / request.param
    (folder / "clips").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(encode_image(0, "JPEG", size=(10, 5)))
    (folder / "clips" / "a.mp3").write_bytes(b"clip")
    (folder / "test.tsv").write_text("path\tsentence\na.mp3\tOne.\n")
    entry = {"image": "a.jpg", "conversations": TURNS}
    (folder / "chat.json").write_text(json.dumps([entry]))
    image = {"bytes": None, "path": str(folder / "a.jpg")}
    rows = pa.Table.from_pylist([{"image": image, "turns": TURNS}])
    pq.write_table(rows, folder / "chat-0.parquet")
    question = {"question_id": 1, "image_id": "a.jpg", "question": "What?", "answers": ["a cat"]}
    (folder / "q.json").write_text(json.dumps([question]))
    question = {"imageId": "a.jpg", "question": "What?", "answer": "a cat"}
    (folder / "gqa.json").write_text(json.dumps({"1": question}))
    return folder


def placed(section, folder):
    """A section of the config with its paths in the folder."""
    if isinstance(section, str):
        return str(folder / section)
    if isinstance(section, list):
        return [placed(item, folder) for item in section]
    return {name: placed(value, folder) for name, value in section.items()}


@pytest.mark.parametrize("source", CONVERSATIONS)
def test_conversations_lie_in_any_folder(folder, source):
    section = {"source": source, source: placed(CONVERSATIONS[source], folder)}
    table = load_table(DataConfig(conversations=section, cache_dir=folder / "cache"), "chat-train")
    assert read_conversations(table).messages == [TURNS]
    assert table.images([0])[0].width == 10


@pytest.mark.parametrize("source", QUESTIONS)
def test_questions_lie_in_any_folder(folder, source):
    section = {"source": source, source: placed(QUESTIONS[source], folder)}
    table = load_table(DataConfig(questions=section, cache_dir=folder / "cache"), "qa-train")
    assert table.questions.answers == [["a cat"]]
    assert table.images([0])[0].width == 10


def test_common_voice_lies_in_any_folder(folder):
    section = {"source": "common_voice", "common_voice": {"folder": str(folder)}}
    table = load_table(DataConfig(**section, cache_dir=folder / "cache"), "test")
    assert table.captions == ["One."]
    assert table.dataset[0]["audio"]["path"] == str(folder / "clips" / "a.mp3")
