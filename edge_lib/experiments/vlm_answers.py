"""Notebook 06: generated answers to the conversations of a table, with controls, and their cost."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd
import torch

from edge_lib.data.chat import ChatError
from edge_lib.data.conversations import read_conversations
from edge_lib.data.encoder_output import EncoderOutput, Features
from edge_lib.data.messages import Messages
from edge_lib.data.table import Table
from edge_lib.metrics.answers import score_answers
from edge_lib.models.generation import ImageCache
from edge_lib.models.vlm import VLM
from edge_lib.training.timing import seconds


@dataclass
class EvalPrompt:
    """A conversation up to its first answer."""

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

    images: "own", "another" (those of another conversation with equally many) or "none": controls.
    generate_kwargs: of `VLM.generate`.
    """
    prompts = [*eval_prompts(vlm, table, features)]
    if images == "another":
        prompts = _exchange_images(prompts)
    if images == "none":
        for prompt in prompts:
            prompt.messages = [_without_image(message) for message in prompt.messages]
            prompt.items["image"] = []
    answers = []
    for start in range(0, len(prompts), batch_size):
        batch, prefixes = prompts[start : start + batch_size], {}
        for name, source in features.items():
            if items := [item for prompt in batch for item in prompt.items[name]]:
                prefixes[name] = source.gather(items)
        answers += vlm.answer_batch(
            [prompt.messages for prompt in batch], prefixes, **generate_kwargs
        )
    references, kinds = [p.references for p in prompts], [p.kind for p in prompts]
    return score_answers(answers, references, kinds, [prompt.row for prompt in prompts])


def answer_questions(
    vlm: VLM, table: Table, image_cache: ImageCache, image_row: int
) -> pd.DataFrame:
    """`score_answers` of all questions in a table about the image of a row, with a column question.

    Each is a prompt of its own, without the turns before it. image_cache: of that image.
    """
    conversations, image = read_conversations(table), table.image_index[image_row]
    columns = conversations.rows, conversations.kinds, conversations.messages
    turns = pd.DataFrame(
        (row, kind, _without_image(message)["content"], reply["content"])
        for row, kind, messages, images in zip(*columns, conversations.image_rows, strict=True)
        if [table.image_index[i] for i in images] == [image]
        for message, reply in pairwise(messages)
        if reply["role"] == "assistant"
    ).set_axis(["row", "kind", "question", "reference"], axis=1)
    answers = vlm.generate([*turns.question], image_cache)
    references = [[reference] for reference in turns.reference]
    scored = score_answers(answers, references, turns.kind, turns.row)
    return scored.assign(question=turns.question)


def eval_prompts(vlm: VLM, table: Table, features: dict[str, Features]) -> Iterator[EvalPrompt]:
    """The usable conversations of a table, up to their first answers."""
    conversations, answers = read_conversations(table), table.column("answers")
    columns = conversations.kinds, conversations.messages, conversations.image_rows
    for row, kind, messages, images in zip(conversations.rows.tolist(), *columns, strict=True):
        first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        prompt = messages[:first]
        try:
            vlm.chat.prompt(prompt)
        except ChatError as error:
            table.skip("refused by the chat template", row, error)
            continue
        count = vlm.chat.count(prompt)
        items = {"image": images[: count["image"]], "audio": [row] * count["audio"]}
        if all(source.valid[items[name]].all() for name, source in features.items()):
            references = answers[row] or [messages[first]["content"]]
            yield EvalPrompt(row, kind, prompt, items, references)


def _exchange_images(prompts: list[EvalPrompt]) -> list[EvalPrompt]:
    """Each prompt with the images of one that is half of all prompts further on and has equally
    many; a prompt whose number of images is unique is left out.
    """
    counts = Counter(len(prompt.items["image"]) for prompt in prompts)
    prompts = [prompt for prompt in prompts if counts[len(prompt.items["image"])] > 1]
    for count in counts:
        same = [prompt for prompt in prompts if len(prompt.items["image"]) == count]
        images, half = [prompt.items["image"] for prompt in same], len(same) // 2
        for prompt, other in zip(same, [*images[half:], *images[:half]], strict=True):
            prompt.items["image"] = other
    return prompts


def _without_image(message: dict) -> dict:
    """The text alone; a question mark if there is none."""
    return {**message, "content": message["content"].replace("<image>", "").strip() or "?"}


def generation_costs(
    vlm: VLM, messages: Sequence[Messages], prefixes: dict[str, EncoderOutput], new_tokens: int = 32
) -> dict[str, float]:
    """MB of the language model's weights, and its speed in answering a batch of conversations."""
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    times = [seconds(lambda: vlm.answer_batch(messages, prefixes, **options)) for _ in range(3)]
    return {
        "weights MB": vlm.language.get_memory_footprint() / 1e6,
        "tokens a second": new_tokens * len(messages) / min(times),
    }
