"""One conversation, as people store it: its turns, and the images and clips that they show.

An entry holds turns under one of `TURNS`, as {role, content}, {from, value} or {user, assistant}. A
content is a text, or a list of parts {"type": "text" | "image" | "audio", ...}. Images and clips
stand in parts, or beside the turns under `image`, `images`, `audio` or `audios`, in the order of
their placeholders.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from edge_lib.data.messages import PLACEHOLDERS
from edge_lib.sources.entries import encodable

TURNS = ("messages", "conversations", "conversation", "turns")
ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
}
PARTS = {
    **dict.fromkeys(("text", "input_text", "output_text"), "text"),
    **dict.fromkeys(("image", "image_url", "input_image"), "image"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "audio"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
}
ITEM_KEYS = ("url", "path", "data", "bytes")  # of a part that names its item otherwise
Columns = str | dict[str, str] | None  # the key of the turns (of TURNS if null), or role -> key
Items = dict[str, list]  # "image" or "audio" -> an item for each placeholder, null if not with it


class UnusableEntry(ValueError):
    """An entry that gives no row; the message is the reason."""


@dataclass
class Conversation:
    """turns: {role, content}; an unknown role is null. items: "image" or "audio" -> paths, bytes or
    objects, as they are in the entry, in the order of the placeholders.
    """

    turns: list[dict]
    items: Items


def parse_conversation(entry: object, columns: Columns = None) -> Conversation:
    """The conversation of an entry: an object, or a list of turns alone. Raises UnusableEntry."""
    if isinstance(entry, list) and columns is None:
        entry = {TURNS[0]: entry}
    if not isinstance(entry, dict):
        raise UnusableEntry("not an object")
    if entry.get("video") or entry.get("videos"):
        raise UnusableEntry("video")
    items: Items = {name: [] for name in PLACEHOLDERS}
    turns = [_turn(role, content, items) for role, content in _turns(entry, columns)]
    for name, placed in items.items():
        beside = _listed(entry.get(name)) + _listed(entry.get(f"{name}s"))
        if name == "image" and len(beside) == 1 and not placed:
            _mark_first_question(turns)
        items[name] = _in_order(placed, beside)
    return Conversation(turns, items)


def turn_keys(columns: Columns) -> list[list[str]]:
    """Keys of which an entry has at least one of each list."""
    if isinstance(columns, dict):
        return [[columns["user"]], [columns["assistant"]]]
    return [[columns] if columns else [*TURNS]]


def _turns(entry: dict, columns: Columns) -> Iterator[tuple[object, object]]:
    """Role and content of each turn."""
    keys = turn_keys(columns)
    if not all(any(name in entry for name in names) for names in keys):
        raise UnusableEntry("no conversation")
    system = entry.get(columns.get("system") if isinstance(columns, dict) else "system")
    if isinstance(system, str) and system.strip():
        yield "system", system
    if isinstance(columns, dict):
        yield from ((role, entry[columns[role]]) for role in ("user", "assistant"))
        return
    turns = next((entry[name] for name in keys[0] if entry.get(name) is not None), [])
    for turn in _as_list(turns):
        if {"user", "assistant"} <= turn.keys():
            yield from (("user", turn["user"]), ("assistant", turn["assistant"]))
        else:
            yield first_value(turn, "role", "from"), first_value(turn, "content", "value", "text")


def _as_list(turns: object) -> list[dict]:
    """Turns as a list, as JSON, or as an object of equally long lists (`datasets.Sequence`)."""
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except ValueError:
            raise UnusableEntry("turns are not JSON") from None
    columns = turns.values() if isinstance(turns, dict) and turns.keys() & {"role", "from"} else ()
    if columns and all(isinstance(values, list) for values in columns):
        rows = zip_longest(*columns)  # one that is shorter lacks texts, which is counted
        turns = [dict(zip(turns, row, strict=True)) for row in rows]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UnusableEntry("turns are not a list of objects")
    return turns


def _turn(role: object, content: object, items: Items) -> dict:
    role = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    parts = content if isinstance(content, list) else ["" if content is None else content]
    texts = [_part(part, items if role != "assistant" else {}) for part in parts]
    return {"role": role, "content": "\n".join(texts)}


def _part(part: object, items: Items) -> str:
    """The text of a part, or the placeholder of an image or a clip, which is added to the items. A
    placeholder in an answer is a text: `items` is empty there.
    """
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, dict) or not part.keys() & {"type", *PARTS}:
        raise UnusableEntry("content is not a text")
    name = part.get("type") or next((name for name in PARTS if part.get(name)), "text")
    kind = PARTS.get(str(name).lower())
    if kind == "text":
        return _text(part.get("text"), items)
    if kind not in PLACEHOLDERS:
        raise UnusableEntry("video" if kind else f"a part of type {name!r}")
    if kind in items:
        items[kind].append(first_value(part, kind, name, f"{kind}_url", *ITEM_KEYS))
    return PLACEHOLDERS[kind]


def _text(text: object, items: Items) -> str:
    if not isinstance(text, str):
        raise UnusableEntry("content is not a text")
    for name, placed in items.items():
        placed += [None] * text.count(PLACEHOLDERS[name])
    return encodable(text)


def _mark_first_question(turns: list[dict]) -> None:
    """Many conversations about one image do without its placeholder."""
    for turn in turns:
        if turn["role"] == "user" and turn["content"].strip():
            turn["content"] = f"{PLACEHOLDERS['image']}\n{turn['content']}"
            return


def _in_order(placed: list, beside: list) -> list:
    """The items of placeholders, from `beside` where they are null; then those without one."""
    rest = iter(beside)
    ordered = [next(rest, None) if item is None else item for item in placed]
    repeated = [item for item in placed if item is not None]  # some list them in both places
    return [item for item in ordered if item is not None] + [i for i in rest if i not in repeated]


def _listed(value: object) -> list:
    """A value that may be one item, a list of items, or nothing."""
    values = value if isinstance(value, list) else [value]
    return [item for item in values if item is not None and item != ""]


def first_value(values: dict, *names: str) -> object:
    """The value of the first name that is not null."""
    return next((values[name] for name in names if values.get(name) is not None), None)
