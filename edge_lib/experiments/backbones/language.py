"""Train the tiny language model the package ships: a Qwen2 that reads scenes put in words.

Where a VLM has the nine soft tokens of an image, it has one vector for each of the nine cells: the
sum of the embeddings of the words that tell what stands there. So it knows how to describe a scene
and how to answer before it has seen one: what remains is to turn an image into such vectors.
"""

import os
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from datasets import Dataset as Rows
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from edge_lib.config import ConversationsConfig, LanguageBackboneConfig
from edge_lib.data.chat import Chat, Messages
from edge_lib.data.chat_batches import ChatBatch, ChatBatches
from edge_lib.data.conversations import Conversations
from edge_lib.data.messages import ROLES
from edge_lib.data.table import Table
from edge_lib.data.vocabulary import pad
from edge_lib.nn.decoders.language import supervised_loss
from edge_lib.runs import Run
from edge_lib.sources.scenes.conversations import scene_turns, scenes_asked
from edge_lib.sources.scenes.probes import parse_things
from edge_lib.sources.scenes.questions import BASIC, SPOTS
from edge_lib.sources.scenes.scene import DIGITS, Scene, Thing
from edge_lib.training.fit import fit

# ChatML as Qwen2.5's, but for the space before a text: its first word is then a token as any other
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n {{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


NOTHING = "nothing"


CELLS = len(SPOTS)


MAX_LENGTH = 1024


CARD = """# tiny-qwen2

A `Qwen2ForCausalLM` (0.2M parameters) with a tokenizer of its own, trained from scratch by
`notebooks/00_backbones.ipynb` on conversations about scenes. In the place of an image it has read a
vector for each of nine cells: the sum of the embeddings of the words for place, size, colour and
digit, over the root of their number. Weights in fp16. For demonstrations and tests: it knows
nothing but such scenes.

On scenes it has never read:

| | |
|---|---|
{scores}
"""


def learn_tokenizer(texts: Iterable[str], size: int) -> Qwen2Tokenizer:
    """Qwen2's byte-level BPE with `size` tokens of its own, learned from texts, and a template.

    Each place is one token ("bottom-left" would be two, half of it those of "bottom"): a cell's
    words are summed, and what is asked for has to be told from its neighbours.
    """
    octets = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Qwen2Tokenizer(vocab={octet: number for number, octet in enumerate(octets)}, merges=[])
    tokenizer = bare.train_new_from_iterator(texts, size, new_special_tokens=[PAD, START, END])
    tokenizer.add_tokens([f" {place}" for place in SPOTS if "-" in place])
    tokenizer.pad_token, tokenizer.eos_token = PAD, END
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def describe_cells(scene: Scene) -> list[str]:
    """What stands in each cell, in reading order: place, size, colour and digit, or nothing."""
    at = {thing.cell: thing for thing in scene.things}
    return [
        f" {place} {_look(at[cell]) if cell in at else NOTHING}" for cell, place in enumerate(SPOTS)
    ]


def _look(thing: Thing) -> str:
    return f"{'large' if thing.large else 'small'} {thing.colour} {DIGITS[thing.digit]}"


@dataclass
class TextScenes:
    """A split's scenes: conversations about them, and words in place of each one's image."""

    table: Table
    conversations: Conversations
    words: list[list[str]]  # (N, CELLS)


def text_scenes(
    config: ConversationsConfig, split: str, kinds: Sequence[str] = BASIC
) -> TextScenes:
    """The conversations of `scene_conversations`, with questions of some kinds alone."""
    ids, words = [], []
    talks = Conversations(np.empty(0, np.int64), [], [], [])
    for number, (scene, asked) in enumerate(scenes_asked(config, split)):
        words.append(describe_cells(scene))
        asked = [question for question in asked if question.kind in kinds]
        for place, (kind, turns) in enumerate(scene_turns(number, scene, asked)):
            ids.append({"id": f"{split}-{number:06d}-{place}"})
            talks.messages.append(turns)
            talks.pictures.append([number])
            talks.kinds.append(kind)
    talks.rows = np.arange(len(ids))
    return TextScenes(Table(Rows.from_list(ids), f"{split} in words", ""), talks, words)


class Words:
    """Token ids of scenes' cells, gathered as features of images are."""

    def __init__(self, scenes: Sequence[Sequence[str]], tokenizer: Qwen2Tokenizer):
        ids = tokenizer([cell for cells in scenes for cell in cells])["input_ids"]
        self.ids = pad(ids, tokenizer.pad_token_id).unflatten(0, (-1, CELLS))
        self.valid = np.ones(len(self.ids), bool)

    def gather(self, pictures: Sequence[int]) -> Tensor:
        """(N, CELLS, T) padded on the right."""
        return self.ids[torch.as_tensor(pictures)]


def train_language(config: LanguageBackboneConfig, seed: int, run_folder: Path) -> dict[str, float]:
    """Learn a tokenizer and train a `LanguageReader`; keep the one that answers best on val."""
    if int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError("the tiny backbones train on one process; set launch.num_processes=1")
    train, val = (text_scenes(config.data, split) for split in ("train", "val"))
    first = text_scenes(config.data, "train", config.curriculum.kinds)
    said = (f" {t['content']}" for talk in train.conversations.messages for t in talk)
    tokenizer = learn_tokenizer(
        chain(said, chain.from_iterable(train.words), ROLES), config.vocab_size
    )
    set_seed(seed)
    reader = LanguageReader(config, tokenizer)
    features = {"image": Words(train.words, tokenizer)}
    asked = features, reader.chat, config.train.batch_size, seed
    lessons = (ChatBatches(told.conversations, told.table, *asked) for told in (first, train))
    batches = CurriculumBatches(*lessons, config.curriculum.steps)

    def evaluate(reader: LanguageReader) -> dict[str, float]:
        scores = reader.scores(val)
        return {**{f"val.{k}": v for k, v in scores.items()}, "score": scores["answers"]}

    return fit(reader, batches, config.train, Run(run_folder), evaluate, seed)


@dataclass
class CurriculumBatches(Dataset):
    """Batches of `first` for so many steps, then those of `rest`."""

    first: ChatBatches
    rest: ChatBatches
    steps: int

    @property
    def steps_per_epoch(self) -> int:
        return self.rest.steps_per_epoch

    def _of(self, step: int) -> ChatBatches:
        return self.first if step < self.steps else self.rest

    def ids(self, step: int) -> list[str]:
        return self._of(step).ids(step)

    def __getitem__(self, step: int) -> ChatBatch:
        return self._of(step)[step]


class LanguageReader(nn.Module):
    """A small Qwen2 and its tokenizer, trained on conversations whose images are put in words."""

    def __init__(self, config: LanguageBackboneConfig, tokenizer: Qwen2Tokenizer):
        super().__init__()
        self.chat = Chat(tokenizer, {"image": CELLS}, MAX_LENGTH)
        self.language = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                hidden_size=config.width,
                intermediate_size=config.width * 8 // 3,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=max(1, config.heads // 2),
                max_position_embeddings=MAX_LENGTH,
                rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # as Qwen2.5's
                # as 0.02 is to Qwen2's widths: smaller ones leave a narrow model on its plateau
                initializer_range=config.width**-0.5,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    def forward(self, batch: ChatBatch) -> Tensor:
        """Mean cross-entropy of the answers' tokens."""
        embedded = self.embed(batch.input_ids, batch.prefixes["image"])
        how = {"attention_mask": batch.attention_mask, "use_cache": False}
        states = self.language.base_model(inputs_embeds=embedded, **how).last_hidden_state
        return supervised_loss(self.language, states, batch.labels) / batch.tokens

    def embed(self, ids: Tensor, cells: Tensor) -> Tensor:
        """Token ids (B, S) and those of cells (N, CELLS, T) -> vectors (B, S, W)."""
        words, place = self.language.get_input_embeddings(), ids == self.chat.placeholders["image"]
        there = (cells != self.chat.pad)[..., None]
        # over the root of their number: about as large as one word
        soft = (words(cells) * there).sum(2) / there.sum(2).sqrt()
        return words(ids.masked_fill(place, 0)).masked_scatter(place[..., None], soft)

    @torch.no_grad()
    def scores(self, scenes: TextScenes, batch_size: int = 128) -> dict[str, float]:
        """Share of first answers that are right word for word, and of the things in the scenes that
        descriptions name with digit, colour and place.
        """
        words, talks = Words(scenes.words, self.chat.tokenizer), scenes.conversations
        right, named, there = [], 0, 0
        for start in range(0, len(talks.messages), batch_size):
            part = slice(start, start + batch_size)
            asked, answers = zip(*(messages[:2] for messages in talks.messages[part]), strict=True)
            cells = words.gather([number for (number,) in talks.pictures[part]])
            said = self.answer([[message] for message in asked], cells)
            for kind, text, answer in zip(talks.kinds[part], said, answers, strict=True):
                if kind == "caption":
                    things = parse_things(answer["content"])
                    named, there = named + len(things & parse_things(text)), there + len(things)
                else:
                    right.append(text == answer["content"])
        return {"answers": float(np.mean(right)), "things": named / there}

    @torch.no_grad()
    def answer(
        self, conversations: Sequence[Messages], cells: Tensor, max_tokens: int = 48
    ) -> list[str]:
        """Greedy answers to conversations about a scene each, told by cells (B, CELLS, T)."""
        rows = [self.chat.prompt(messages) for messages in conversations]
        device = self.language.device
        ids = pad(rows, self.chat.pad, left=True).to(device)
        mask = pad([[1] * len(row) for row in rows], 0, left=True).to(device)
        how = {"max_new_tokens": max_tokens, "do_sample": False}
        embedded = self.embed(ids, cells.to(device))
        found = self.language.generate(inputs_embeds=embedded, attention_mask=mask, **how)
        texts = self.chat.tokenizer.batch_decode(found, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def save_pretrained(self, folder: Path) -> None:
        """The model in half precision and its tokenizer, as any `from_pretrained` reads them."""
        deepcopy(self.language).half().save_pretrained(folder)
        self.chat.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: Path, config: LanguageBackboneConfig) -> "LanguageReader":
        """Load what `save_pretrained` wrote, in single precision and evaluation mode."""
        reader = cls(config, AutoTokenizer.from_pretrained(folder))
        reader.language = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return reader.eval()
