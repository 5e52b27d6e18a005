"""Conversations about scenes as rows of the one-table schema: descriptions, and questions."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from edge_lib.config.vlm import ConversationsConfig
from edge_lib.data import scenes, speech
from edge_lib.data.questions import Question, ask
from edge_lib.data.scene_table import in_parallel, say, to_png
from edge_lib.data.scenes import COLOURS, DIGITS, PLACES, Scene
from edge_lib.data.turns import PLACEHOLDERS

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
    rows[0]["image"] = to_png(scenes.render(scene, split))
    if config.speech == "asked":
        turns = _turns((HEAR, scene.caption()), about="audio")
        heard = {"image_id": name, "image_ids": [], "group": number, "kind": "spoken"}
        rows.append({"id": f"{name}-spoken", "turns": turns} | heard)
    if config.speech:
        spoken = rows[-1 if config.speech == "asked" else 0]
        spoken["audio"] = speech.to_flac(say(scene, split, number, config.seed)[0])
    return rows


def things_in(caption: str) -> set[tuple[int, str, int]]:
    """Digit, colour and cell of each thing that a scene's caption names, in any phrasing."""
    found = set()
    for phrase in re.split(r",\s*|\s+and\s+", caption):
        words = phrase.split()
        digits = [n for n, name in enumerate(DIGITS) if name in words or str(n) in words]
        colours = [colour for colour in COLOURS if colour in words]
        # "at the top left" holds "at the top"
        cells = [cell for cell, place in enumerate(PLACES) if place in phrase]
        cells.sort(key=lambda cell: -len(PLACES[cell]))
        if len(digits) == len(colours) == 1 and cells:
            found.add((digits[0], colours[0], cells[0]))
    return found


def _turns(*pairs: tuple[str, str], about: str = "image") -> list[dict]:
    """What is asked and what is answered, in turn; the image or the clip comes first."""
    roles = (zip(("user", "assistant"), pair, strict=True) for pair in pairs)
    turns = [{"role": role, "content": text} for role, text in chain.from_iterable(roles)]
    turns[0]["content"] = f"{PLACEHOLDERS[about]}\n{turns[0]['content']}"
    return turns
