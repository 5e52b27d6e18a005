"""Scenes as text for the tiny language model: words for each cell in place of the image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from transformers import Qwen2Tokenizer

from edge_lib.config import ConversationsConfig
from edge_lib.data.conversations import Conversations
from edge_lib.data.table import Table
from edge_lib.data.vocabulary import pad
from edge_lib.sources.scenes.conversations import scene_conversations, scenes_with_questions
from edge_lib.sources.scenes.question_kinds import CELL_NAMES
from edge_lib.sources.scenes.questions import Question
from edge_lib.sources.scenes.scene import DIGITS, Scene, Thing

CELLS = len(CELL_NAMES)
EMPTY = "nothing"  # the word for an empty cell


@dataclass
class TextScenes:
    """Conversations about N scenes, and the words that replace the image of each scene."""

    table: Table
    conversations: Conversations
    words: list[list[str]]  # (N, CELLS)


def text_scenes(config: ConversationsConfig, split: str) -> TextScenes:
    """The scenes and conversations of a split: the same as in its table of conversations."""
    return as_text(scenes_with_questions(config, split), split)


def curriculum_scenes(
    config: ConversationsConfig, kinds: Sequence[str]
) -> tuple[TextScenes, TextScenes]:
    """The train split twice: with questions of these kinds only, and with all questions."""
    scenes = list(scenes_with_questions(config, "train"))
    first = [(scene, [q for q in questions if q.kind in kinds]) for scene, questions in scenes]
    return as_text(first, "train"), as_text(scenes, "train")


def as_text(scenes: Iterable[tuple[Scene, list[Question]]], split: str) -> TextScenes:
    """Conversations about scenes from their questions, and the words of their cells."""
    ids, words, images, kinds, messages = [], [], [], [], []
    for number, (scene, questions) in enumerate(scenes):
        words.append(describe_cells(scene))
        for index, (kind, turns) in enumerate(scene_conversations(number, scene, questions)):
            ids.append({"id": f"{split}-{number:06d}-{index}"})
            messages.append(turns)
            images.append([number])
            kinds.append(kind)
    conversations = Conversations.from_lists(messages, images, kinds)
    return TextScenes(Table(Dataset.from_list(ids), f"{split} text", ""), conversations, words)


def describe_cells(scene: Scene) -> list[str]:
    """For each cell in reading order: its name, then size, colour and digit, or EMPTY."""
    contents = {thing.cell: _describe(thing) for thing in scene.things}
    return [f" {name} {contents.get(cell, EMPTY)}" for cell, name in enumerate(CELL_NAMES)]


def _describe(thing: Thing) -> str:
    return f"{'large' if thing.large else 'small'} {thing.colour} {DIGITS[thing.digit]}"


class CellTokens:
    """Token ids of the cells of scenes, with the interface of a store of image features."""

    def __init__(self, scenes: Sequence[Sequence[str]], tokenizer: Qwen2Tokenizer):
        ids = tokenizer([cell for cells in scenes for cell in cells])["input_ids"]
        self.ids = pad(ids, tokenizer.pad_token_id).unflatten(0, (-1, CELLS))
        self.valid = np.ones(len(self.ids), bool)

    def gather(self, numbers: Sequence[int]) -> torch.Tensor:
        """(B, CELLS, T) token ids of scenes, padded on the right."""
        return self.ids[torch.as_tensor(numbers)]
