"""Notebook 06: generated answers to the conversations of a table, with controls, and their cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from edge_lib.data.chat import Chat, ChatError
from edge_lib.data.conversations import read_conversations
from edge_lib.data.encoder_output import Features
from edge_lib.data.skipped import Skipped
from edge_lib.data.table import Table
from edge_lib.data.tokenized import NOT_ENCODED, REFUSED
from edge_lib.metrics.answers import score_answers
from edge_lib.models.generation import ImageCache
from edge_lib.models.vlm import VLM
from edge_lib.training.timing import seconds


@dataclass
class EvalPrompt:
    """A conversation up to its first answer to a question."""

    row: int
    kind: str
    messages: list[dict]
    items: dict[str, list[int]]  # item numbers by placeholder
    references: list[str]


@torch.no_grad()
def generate_answers(
    vlm: VLM,
    table: Table,
    features: dict[str, Features],
    images: str = "own",
    batch_size: int = 64,
    **generate_kwargs,
) -> pd.DataFrame:
    """`score_answers` of the first answer in each of a table's conversations. References are the
    row's `answers` if it has some, else the conversation's own. A conversation that the chat
    template refuses, or whose items were not encoded, is left out.

    images: "own", or as a control "another" (those of another conversation with equally many) or
        "none".
    generate_kwargs: of `VLM.generate`.
    """
    prompts = [*eval_prompts(vlm.chat, table, features)]
    if images == "another":
        prompts = _exchange_images(prompts, table.image_index)
    if images == "none":
        for prompt in prompts:
            prompt.messages = [_without_image(message) for message in prompt.messages]
            prompt.items["image"] = []
    answers = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        answers += _answer(vlm, batch, features, **generate_kwargs)
    references, kinds = [p.references for p in prompts], [p.kind for p in prompts]
    return score_answers(answers, references, kinds, [prompt.row for prompt in prompts])


def _answer(
    vlm: VLM, prompts: Sequence[EvalPrompt], features: dict[str, Features], **generate_kwargs
) -> list[str]:
    """The answers to a batch of prompts."""
    prefixes = {}
    for name, source in features.items():
        if items := [item for prompt in prompts for item in prompt.items[name]]:
            prefixes[name] = source.gather(items)
    messages = [prompt.messages for prompt in prompts]
    return vlm.answer_batch(messages, prefixes, **generate_kwargs)


def answer_questions(
    vlm: VLM, table: Table, image_cache: ImageCache, image_row: int
) -> pd.DataFrame:
    """`score_answers` of all questions in a table about the image of a row, with a column question.

    Each is a prompt of its own, without the turns before it; one that the chat template refuses, or
    that is about a clip, is left out. image_cache: of that image.
    """
    turns = [*_questions_about(table, table.image_index[image_row])]
    turns = [turn for turn in turns if _is_prompt(vlm, f"<image>\n{turn.question}")]
    rows, kinds, questions, references = zip(*turns, strict=True) if turns else ([],) * 4
    answers = vlm.generate([*questions], image_cache) if turns else []
    scored = score_answers(answers, [[text] for text in references], kinds, rows)
    return scored.assign(question=questions)


class _Turn(NamedTuple):
    """A question, and the reply in the conversation."""

    row: int
    kind: str
    question: str
    reference: str


def _questions_about(table: Table, image: int) -> Iterator[_Turn]:
    """The questions of conversations that are about this image alone."""
    conversations = read_conversations(table)
    columns = conversations.kinds, conversations.messages, conversations.image_rows
    for row, kind, messages, images in zip(conversations.rows.tolist(), *columns, strict=True):
        if [table.image_index[i] for i in images] == [image]:
            for message, reply in pairwise(messages):
                if (message["role"], reply["role"]) == ("user", "assistant"):
                    yield _Turn(row, kind, _without_image(message)["content"], reply["content"])


def _is_prompt(vlm: VLM, text: str) -> bool:
    """Whether the model can be asked this, with an image and without a clip."""
    messages = [{"role": "user", "content": text}]
    try:
        vlm.chat.prompt(messages)
    except ChatError:
        return False
    return vlm.chat.count(messages) == {"image": 1, "audio": 0}


def eval_prompts(chat: Chat, table: Table, features: dict[str, Features]) -> Iterator[EvalPrompt]:
    """The usable conversations of a table, up to the first answer to a question. Others are counted
    at the end.
    """
    skipped = {}
    conversations, answers = read_conversations(table), table.column("answers")
    columns = conversations.kinds, conversations.messages, conversations.image_rows
    for row, kind, messages, images in zip(conversations.rows.tolist(), *columns, strict=True):
        first = _first_answer(messages)
        prompt, count = messages[:first], chat.count(messages[:first])
        items = {"image": images[: count["image"]], "audio": [row] * count["audio"]}
        try:
            chat.prompt(prompt)
        except ChatError as error:
            skipped[row] = Skipped(REFUSED, str(error))
            continue
        if not all(source.valid[items[name]].all() for name, source in features.items()):
            skipped[row] = Skipped(NOT_ENCODED)
            continue
        references = [text for text in answers[row] or [] if text and text.strip()]
        references = references or [messages[first]["content"]]
        yield EvalPrompt(row, kind, prompt, items, references)
    table.skip_all(skipped)


def _first_answer(messages: list[dict]) -> int:
    """The number of the first answer that follows a question; 0 if there is none."""
    roles = [message["role"] for message in messages]
    start = roles.index("user") if "user" in roles else len(roles)
    return roles.index("assistant", start) if "assistant" in roles[start:] else 0


def _exchange_images(prompts: list[EvalPrompt], image_index: np.ndarray) -> list[EvalPrompt]:
    """Each prompt with the images of one that is half of all prompts further on and has equally
    many. A prompt without images, or for which these are its own, is left out.
    """
    exchanged = []
    for count in sorted({len(prompt.items["image"]) for prompt in prompts} - {0}):
        same = [prompt for prompt in prompts if len(prompt.items["image"]) == count]
        images, half = [prompt.items["image"] for prompt in same], len(same) // 2
        for prompt, other in zip(same, [*images[half:], *images[:half]], strict=True):
            if (image_index[other] != image_index[prompt.items["image"]]).any():
                exchanged.append(replace(prompt, items=prompt.items | {"image": other}))
    return sorted(exchanged, key=attrgetter("row"))


def _without_image(message: dict) -> dict:
    """The text alone; a question mark if there is none."""
    return {**message, "content": message["content"].replace("<image>", "").strip() or "?"}


def with_images(scored: pd.DataFrame, features: dict[str, Features]) -> pd.DataFrame:
    """The rows of a `generate_answers` table whose table rows have an encoded image."""
    return scored[features["image"].valid[scored.row]] if "image" in features else scored[:0]


def generation_costs(
    vlm: VLM, table: Table, features: dict[str, Features], batch_size: int = 8, new_tokens: int = 32
) -> dict[str, float]:
    """MB of the language model's weights, and its speed in answering a table's first conversation,
    several times in a batch.
    """
    prompts = [next(eval_prompts(vlm.chat, table, features))] * batch_size
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    times = [seconds(lambda: _answer(vlm, prompts, features, **options)) for _ in range(3)]
    return {
        "weights MB": vlm.language.get_memory_footprint() / 1e6,
        "tokens a second": new_tokens * batch_size / min(times),
    }
