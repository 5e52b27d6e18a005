"""Answers generated for the conversations of a table, and what answering costs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from edge_lib.data.alignment_batches import Features
from edge_lib.data.chat import ChatError, Messages
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.metrics.answers import score_answers
from edge_lib.models.vlm import VLM
from edge_lib.training.timing import seconds


@torch.no_grad()
def generate_answers(
    vlm: VLM,
    table: Table,
    features: dict[str, Features],
    seen: str = "own",
    batch_size: int = 64,
    **how,
) -> pd.DataFrame:
    """`score_answers` of what the model says first in each of a table's conversations, by a row's
    `answers` where it has some; one that it refuses, or whose items could not be encoded, is left
    out.

    seen: the "own" images, "another" conversation's (where one has as many), or "none": controls.
    how: of `VLM.generate`.
    """
    asked = [*_first_turns(vlm, table, features)]
    if seen == "another":
        asked = _exchange_pictures(asked)
    if seen == "none":
        for one in asked:
            one.messages = [_without_image(message) for message in one.messages]
            one.items["image"] = []
    answers = []
    for start in range(0, len(asked), batch_size):
        some, prefixes = asked[start : start + batch_size], {}
        for name, found in features.items():
            if wanted := [item for one in some for item in one.items[name]]:
                prefixes[name] = found.gather(wanted)
        answers += vlm.answer([one.messages for one in some], prefixes, **how)
    references, kinds = [one.references for one in asked], [one.kind for one in asked]
    return score_answers(answers, references, kinds, [one.row for one in asked])


@dataclass
class EvalPrompt:
    """A conversation up to its first answer."""

    row: int
    kind: str
    messages: list[dict]
    items: dict[str, list[int]]  # of each placeholder
    references: list[str]


def _first_turns(vlm: VLM, table: Table, features: dict[str, Features]) -> Iterator[EvalPrompt]:
    talks = table.conversations
    columns, answers = (talks.kinds, talks.messages, talks.pictures), table.column("answers")
    for row, kind, messages, pictures in zip(talks.rows.tolist(), *columns, strict=True):
        place = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        before = messages[:place]
        try:
            vlm.chat.prompt(before)
        except ChatError as error:
            table.skip("refused by the chat", row, error)
            continue
        count = vlm.chat.count(before)
        items = {"image": pictures[: count["image"]], "audio": [row] * count["audio"]}
        if all(found.valid[items[name]].all() for name, found in features.items()):
            references = answers[row] or [messages[place]["content"]]
            yield EvalPrompt(row, kind, before, items, references)


def _exchange_pictures(asked: list[EvalPrompt]) -> list[EvalPrompt]:
    """Each gets the pictures of one half of all conversations further on with as many; one that is
    alone with its number of them is left out.
    """
    counts = Counter(len(one.items["image"]) for one in asked)
    asked = [one for one in asked if counts[len(one.items["image"])] > 1]
    for count in counts:
        alike = [one for one in asked if len(one.items["image"]) == count]
        shown = [one.items["image"] for one in alike]
        half = len(alike) // 2
        for one, pictures in zip(alike, [*shown[half:], *shown[:half]], strict=True):
            one.items["image"] = pictures
    return asked


def _without_image(message: dict) -> dict:
    """The text alone; where there is none, a question mark."""
    return {**message, "content": message["content"].replace("<image>", "").strip() or "?"}


def generation_costs(
    vlm: VLM, messages: Sequence[Messages], prefixes: dict[str, EncoderOutput], new_tokens: int = 32
) -> dict[str, float]:
    """What the language model's weights take, and how fast it answers a batch of conversations."""
    how = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    took = [seconds(lambda: vlm.answer(messages, prefixes, **how)) for _ in range(3)]
    return {
        "weights MB": vlm.language.get_memory_footprint() / 1e6,
        "tokens a second": new_tokens * len(messages) / min(took),
    }
