"""Conversations about scenes: descriptions, questions and spoken captions."""

import numpy as np
import pytest
from conversation_helpers import assistant, contents, load_conversations, user

from edge_lib.config import ConversationsConfig
from edge_lib.data.audio import RATE
from edge_lib.data.conversations import read_conversations
from edge_lib.sources.scenes.conversations import DESCRIBE, rows_of_scene, scenes_with_questions
from edge_lib.sources.scenes.questions import generate_questions
from edge_lib.sources.scenes.render import render
from edge_lib.sources.scenes.scene import Scene
from edge_lib.sources.scenes.speech import VARIANTS, speak

SMALL = {"train_scenes": 7, "val_scenes": 3, "test_scenes": 3, "per_scene": 4}


@pytest.mark.parametrize("split", ["train", "val"])
def test_scene_has_a_description_and_conversations_of_two_questions(tmp_path, split):
    table = load_conversations(ConversationsConfig(**SMALL, seed=3), tmp_path, split)
    size = SMALL[f"{split}_scenes"]
    scenes = [
        (Scene(tuple(sorted(scene.things, key=lambda t: t.cell)), scene.phrasing), questions)
        for scene, questions in generate_questions(split, size, 4, max_objects=4, hops=0, seed=3)
    ]
    columns = read_conversations(table)
    conversations = iter(zip(columns.kinds, columns.messages, columns.image_rows, strict=True))
    for number, (scene, questions) in enumerate(scenes):
        prompt = DESCRIBE[number % 3]
        description = [user(f"<image>\n{prompt}"), assistant(scene.caption())]
        kind, messages, (row,) = next(conversations)
        assert (kind, messages, table.image_index[row]) == ("caption", description, number)
        while questions:
            kind, messages, (row,) = next(conversations)
            (first, *others), questions = questions[:2], questions[2:]
            assert (kind, table.image_index[row]) == ("qa", number)
            texts = [f"<image>\n{first.text}", *(q.text for q in others)]
            assert contents(messages, "user") == texts
            assert contents(messages, "assistant") == [q.answer for q in (first, *others)]
            assert [m["role"] for m in messages] == ["user", "assistant"] * len(texts)
    assert next(conversations, None) is None
    images = table.images(table.image_rows)
    assert len(images) == size
    for image, (scene, _) in zip(images, scenes, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(render(scene, split)))
    assert not table.has("audio").any()
    assert not table.skipped


def test_spoken_caption_is_in_the_description_row_or_in_its_own(tmp_path):
    sizes = SMALL | {"val_scenes": 2}
    with_description, as_question = (
        load_conversations(ConversationsConfig(**sizes, speech=speech), tmp_path, "val")
        for speech in (True, "question")
    )
    for table, kind in ((with_description, "caption"), (as_question, "spoken")):
        assert table.has("audio").tolist() == [k == kind for k in table.column("kind")]
    columns = read_conversations(as_question)
    spoken = [n for n, kind in enumerate(columns.kinds) if kind == "spoken"]
    pairs = zip(columns.kinds, columns.messages, strict=True)
    captions = [messages[1] for kind, messages in pairs if kind == "caption"]
    for number, caption in zip(spoken, captions, strict=True):
        assert columns.messages[number] == [user("<audio>\nWhat is said?"), caption]
        assert columns.image_rows[number] == []
    tables = with_description, as_question
    clips = [table.clips(np.flatnonzero(table.has("audio"))) for table in tables]
    for one, two in zip(*clips, strict=True):
        np.testing.assert_array_equal(one, two)


def test_conversations_are_generated_once_per_config(tmp_path, monkeypatch):
    config = ConversationsConfig(**SMALL)
    first = load_conversations(config, tmp_path, "val")

    def fail(*args, **kwargs):
        raise AssertionError("generated again")

    monkeypatch.setattr("edge_lib.sources.scenes.conversations.generate_questions", fail)
    second = load_conversations(config, tmp_path, "val")
    assert second.fingerprint == first.fingerprint
    assert read_conversations(second).messages == read_conversations(first).messages
    for change in ({"seed": 1}, {"per_scene": 5}):
        with pytest.raises(AssertionError, match="generated again"):
            load_conversations(config.model_copy(update=change), tmp_path, "val")


def test_speech_adds_the_spoken_caption_and_changes_no_message(tmp_path, monkeypatch):
    config = ConversationsConfig(**SMALL, speech=True)
    table = load_conversations(config, tmp_path, "test")
    is_caption = [kind == "caption" for kind in read_conversations(table).kinds]
    assert table.has("audio").tolist() == is_caption
    assert sum(is_caption) == 3
    assert all(len(clip) > RATE for clip in table.clips(np.flatnonzero(is_caption)))
    silent = load_conversations(ConversationsConfig(**SMALL), tmp_path, "test")
    assert read_conversations(table).messages == read_conversations(silent).messages
    calls = []
    monkeypatch.setattr(
        "edge_lib.sources.scenes.speech.speak", lambda *args: calls.append(args) or speak(*args)
    )
    for number, (scene, questions) in enumerate(scenes_with_questions(config, "test")):
        caption, *others = rows_of_scene(config, "test", number, scene, questions)
        text, voice = calls[-1]
        assert text == scene.caption()
        assert voice.name.split("+")[1] in VARIANTS["test"]
        assert caption["audio"][:4] == b"fLaC"
        assert not any("audio" in row or "image" in row for row in others)
