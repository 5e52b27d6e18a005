"""Conversations about scenes as rows of `data.table.SCHEMA`: descriptions and questions."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, starmap

from edge_lib.config import DataConfig
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.data.messages import PLACEHOLDERS
from edge_lib.data.table import Table
from edge_lib.sources.generated import generated_path, read_generated
from edge_lib.sources.scenes.parallel import run_in_parallel
from edge_lib.sources.scenes.questions import Question, generate_questions
from edge_lib.sources.scenes.render import render, to_png
from edge_lib.sources.scenes.scene import Scene
from edge_lib.sources.scenes.speech import speak_scene, to_flac

VERSION = 1  # raise it whenever the same config gives different rows
QUESTIONS_PER_CONVERSATION = 2
DESCRIBE = ("Describe the image.", "What do you see in this image?", "What does the image show?")
TRANSCRIBE = "What is said?"


def load(config: DataConfig, split: str) -> Table:
    """The conversations of a split, generated on first use."""
    section = config.conversations.model_copy(update={"instructions": None})
    path = generated_path(config.cache_dir, "conversations", section, VERSION, split)
    name = f"conversations {split}"
    return read_generated(path, lambda: conversation_rows(section, split), name)


def conversation_rows(config: ConversationsConfig, split: str) -> Iterator[dict]:
    """The rows of a split, scene by scene; with speech, generated on all cores."""
    scenes = enumerate(scenes_with_questions(config, split))
    jobs = ((config, split, number, *scene) for number, scene in scenes)
    rows = run_in_parallel(rows_of_scene, jobs) if config.speech else starmap(rows_of_scene, jobs)
    return chain.from_iterable(rows)


def scenes_with_questions(
    config: ConversationsConfig, split: str
) -> Iterator[tuple[Scene, list[Question]]]:
    """Yield the scenes of a split, their digits in reading order, each with basic questions."""
    size = getattr(config, f"{split}_scenes")
    for scene, questions in generate_questions(
        split, size, config.per_scene, config.max_objects, hops=0, seed=config.seed
    ):
        yield replace(scene, things=tuple(sorted(scene.things, key=lambda t: t.cell))), questions


def scene_conversations(
    number: int, scene: Scene, questions: list[Question]
) -> Iterator[tuple[str, list[dict]]]:
    """Yield kind and turns of each conversation about a scene's image: first its description, then
    its questions, a few in each conversation.
    """
    yield "caption", _turns((DESCRIBE[number % len(DESCRIBE)], scene.caption()))
    for start in range(0, len(questions), QUESTIONS_PER_CONVERSATION):
        part = questions[start : start + QUESTIONS_PER_CONVERSATION]
        yield "qa", _turns(*((question.text, question.answer) for question in part))


def rows_of_scene(
    config: ConversationsConfig, split: str, number: int, scene: Scene, questions: list[Question]
) -> list[dict]:
    """A row for each conversation about a scene. The first one holds the image; the others refer to
    it by `image_id`. With speech, the first row also holds the spoken caption, or a last row holds
    it and asks for its transcript.
    """
    name = f"{split}-{number:06d}"
    shared = {"image_id": name, "group": number}
    rows = [
        {"id": f"{name}-{index}", "kind": kind, "turns": turns} | shared
        for index, (kind, turns) in enumerate(scene_conversations(number, scene, questions))
    ]
    rows[0]["image"] = to_png(render(scene, split))
    if config.speech == "question":
        turns = _turns((TRANSCRIBE, scene.caption()), placeholder="audio")
        spoken = {"id": f"{name}-spoken", "kind": "spoken", "turns": turns, "image_ids": []}
        rows.append(spoken | shared)
    if config.speech:
        row = rows[-1 if config.speech == "question" else 0]
        row["audio"] = to_flac(speak_scene(scene, split, number, config.seed)[0])
    return rows


def _turns(*pairs: tuple[str, str], placeholder: str = "image") -> list[dict]:
    """Turns of (question, answer) pairs, with the placeholder in front of the first question."""
    roles = (zip(("user", "assistant"), pair, strict=True) for pair in pairs)
    turns = [{"role": role, "content": text} for role, text in chain.from_iterable(roles)]
    turns[0]["content"] = f"{PLACEHOLDERS[placeholder]}\n{turns[0]['content']}"
    return turns
