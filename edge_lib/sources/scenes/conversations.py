"""Conversations about scenes as rows of the one-table schema: descriptions, and questions."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from edge_lib.config import DataConfig
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.data.messages import PLACEHOLDERS
from edge_lib.data.table import Table
from edge_lib.sources.generated import generated_path, read_generated
from edge_lib.sources.scenes.parallel import in_parallel
from edge_lib.sources.scenes.questions import Question, ask
from edge_lib.sources.scenes.render import render, to_png
from edge_lib.sources.scenes.scene import Scene
from edge_lib.sources.scenes.speech import to_flac
from edge_lib.sources.scenes.table import say

VERSION = 1  # raise it when the same config gives other rows
TURNS = 2  # questions in a conversation


HEAR = "What is said?"


DESCRIBE = ("Describe the image.", "What do you see in this image?", "What does the image show?")


def scene_conversations(config: ConversationsConfig, split: str) -> Iterator[dict]:
    """All rows of a scene, scene by scene; on all cores where captions have to be spoken."""
    asked = enumerate(scenes_asked(config, split))
    jobs = ((config, split, number, *about) for number, about in asked)
    made = in_parallel(scene_rows, jobs) if config.speech else (scene_rows(*job) for job in jobs)
    return chain.from_iterable(made)


def scenes_asked(config: ConversationsConfig, split: str) -> Iterator[tuple[Scene, list[Question]]]:
    """The scenes of a split, told in reading order, each with questions of the six basic kinds."""
    size = getattr(config, f"{split}_scenes")
    for scene, asked in ask(split, size, config.per_scene, config.max_objects, 0, config.seed):
        yield replace(scene, things=tuple(sorted(scene.things, key=lambda t: t.cell))), asked


def scene_turns(number: int, scene: Scene, asked: list[Question]) -> Iterator[tuple[str, list]]:
    """Kind and turns of the conversations that begin with a scene's image: its description, and its
    questions, a few in each.
    """
    yield "caption", _turns((DESCRIBE[number % len(DESCRIBE)], scene.caption()))
    for start in range(0, len(asked), TURNS):
        some = asked[start : start + TURNS]
        yield "qa", _turns(*((question.text, question.answer) for question in some))


def scene_rows(
    config: ConversationsConfig, split: str, number: int, scene: Scene, asked: list[Question]
) -> list[dict]:
    """The description, with the picture, and the questions, with its name; the spoken caption with
    the picture, or in a row of its own.
    """
    name, rows = f"{split}-{number:06d}", []
    for place, (kind, turns) in enumerate(scene_turns(number, scene, asked)):
        about = {"image_id": name, "group": number, "kind": kind, "turns": turns}
        rows.append({"id": f"{name}-{place}"} | about)
    rows[0]["image"] = to_png(render(scene, split))
    if config.speech == "asked":
        turns = _turns((HEAR, scene.caption()), about="audio")
        heard = {"image_id": name, "image_ids": [], "group": number, "kind": "spoken"}
        rows.append({"id": f"{name}-spoken", "turns": turns} | heard)
    if config.speech:
        spoken = rows[-1 if config.speech == "asked" else 0]
        spoken["audio"] = to_flac(say(scene, split, number, config.seed)[0])
    return rows


def _turns(*pairs: tuple[str, str], about: str = "image") -> list[dict]:
    """What is asked and what is answered, in turn; the image or the clip comes first."""
    roles = (zip(("user", "assistant"), pair, strict=True) for pair in pairs)
    turns = [{"role": role, "content": text} for role, text in chain.from_iterable(roles)]
    turns[0]["content"] = f"{PLACEHOLDERS[about]}\n{turns[0]['content']}"
    return turns


def load(config: DataConfig, split: str) -> Table:
    """The conversations of a split, generated on first use."""
    section = config.conversations.model_copy(update={"instructions": None})
    path = generated_path(config.cache_dir, "conversations", section, VERSION, split)
    rows = scene_conversations
    return read_generated(path, lambda: rows(section, split), f"conversations {split}")
