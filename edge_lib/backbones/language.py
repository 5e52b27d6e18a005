"""Train the tiny language model the package ships: a Qwen2 that reads scenes put in words.

Where a VLM has an image, its conversations name what stands in each of the nine cells. So it knows
how to describe a scene and how to answer before it has seen one: what remains is to turn an image
into vectors that it reads like those words.
"""

import os
from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from datasets import Dataset
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from edge_lib.config import ConversationsConfig, LanguageBackboneConfig
from edge_lib.data.chat import Chat, Messages
from edge_lib.data.chat_batches import ChatBatch, ChatBatches
from edge_lib.data.questions import SPOTS
from edge_lib.data.scene_chats import scene_turns, scenes_asked
from edge_lib.data.scenes import DIGITS, SPLITS, Scene
from edge_lib.data.table import Table
from edge_lib.data.turns import ROLES
from edge_lib.decoders.qwen import supervised_loss
from edge_lib.runs import Run
from edge_lib.tokens import pad
from edge_lib.train import fit

# ChatML as Qwen2.5's, but for the space before a text: its first word is then a token as any other
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n {{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
NOTHING = "nothing"
MAX_LENGTH = 1024

CARD = """# tiny-qwen2

A `Qwen2ForCausalLM` (1M parameters) with a tokenizer of its own, trained from scratch by
`notebooks/00_backbones.ipynb` on conversations about scenes that are put in words: which digit, of
which colour and size, stands in which cell. Weights in fp16. For demonstrations and tests: it knows
nothing but such scenes.

On scenes it has never read:

| | |
|---|---|
{scores}
"""


def learn_tokenizer(texts: Iterable[str], size: int) -> Qwen2Tokenizer:
    """Qwen2's byte-level BPE with `size` tokens of its own, learned from texts, and a template."""
    octets = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Qwen2Tokenizer(vocab={octet: number for number, octet in enumerate(octets)}, merges=[])
    tokenizer = bare.train_new_from_iterator(texts, size, new_special_tokens=[PAD, START, END])
    tokenizer.pad_token, tokenizer.eos_token = PAD, END
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def in_words(scene: Scene, rng: np.random.Generator) -> str:
    """Four words for each digit in reading order: place, size, colour, digit. Some of the empty
    cells, of one scene more and of another fewer, are said to hold nothing.
    """
    at = {thing.cell: thing for thing in scene.things}
    share, told = rng.random(), []
    for cell, place in enumerate(SPOTS):
        if thing := at.get(cell):
            size = "large" if thing.large else "small"
            told.append(f"{place} {size} {thing.colour} {DIGITS[thing.digit]}")
        elif rng.random() < share:
            told.append(" ".join((place, *(NOTHING,) * 3)))
    return " ".join(told)


def scenes_in_words(config: ConversationsConfig, split: str) -> Table:
    """The conversations about a split's scenes, with words where they have an image."""
    rows, rng = [], np.random.default_rng([config.seed, SPLITS.index(split), 6])
    for number, (scene, asked) in enumerate(scenes_asked(config, split)):
        for kind, turns in zip(("caption", "qa"), scene_turns(number, scene, asked), strict=True):
            turns[0]["content"] = turns[0]["content"].replace("<image>", in_words(scene, rng))
            rows.append({"id": f"{split}-{number:06d}-{kind}", "kind": kind, "turns": turns})
    return Table(Dataset.from_list(rows), f"{split} in words", "")


def train_language(config: LanguageBackboneConfig, seed: int, run_folder: Path) -> dict[str, float]:
    """Learn a tokenizer and train a `LanguageReader`; keep the one that answers best on val."""
    if int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError("the tiny backbones train on one process; set launch.num_processes=1")
    train, val = (scenes_in_words(config.data, split) for split in ("train", "val"))
    texts = (f" {t['content']}" for talk in train.conversations.messages for t in talk)
    tokenizer = learn_tokenizer(chain(texts, ROLES), config.vocab_size)
    set_seed(seed)
    reader = LanguageReader(config, tokenizer)
    asked = config.train.batch_size, seed
    batches = ChatBatches(train.conversations, train, {}, reader.chat, *asked)

    def evaluate(reader: LanguageReader) -> dict[str, float]:
        scores = reader.scores(val)
        return {**{f"val.{k}": v for k, v in scores.items()}, "score": scores["answers"]}

    return fit(reader, batches, config.train, Run(run_folder), evaluate, seed)


class LanguageReader(nn.Module):
    """A small Qwen2 and its tokenizer, trained on conversations whose images are put in words."""

    def __init__(self, config: LanguageBackboneConfig, tokenizer: Qwen2Tokenizer):
        super().__init__()
        self.chat = Chat(tokenizer, {}, MAX_LENGTH)
        self.language = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                hidden_size=config.width,
                intermediate_size=config.width * 8 // 3,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=max(1, config.heads // 2),
                max_position_embeddings=MAX_LENGTH,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    def forward(self, batch: ChatBatch) -> Tensor:
        """Mean cross-entropy of the answers' tokens."""
        how = {"attention_mask": batch.attention_mask, "use_cache": False}
        states = self.language.base_model(batch.input_ids, **how).last_hidden_state
        return supervised_loss(self.language, states, batch.labels) / batch.tokens

    @torch.no_grad()
    def scores(self, table: Table, batch_size: int = 128) -> dict[str, float]:
        """Share of a table's first answers and of its captions that are right word for word."""
        right = {"answers": [], "captions": []}
        talks = table.conversations
        for start in range(0, len(talks.messages), batch_size):
            part = talks.messages[start : start + batch_size]
            said = self.answer([messages[:1] for messages in part])
            for kind, text, messages in zip(talks.kinds[start:], said, part, strict=False):
                name = "captions" if kind == "caption" else "answers"
                right[name].append(text == messages[1]["content"])
        return {name: float(np.mean(found)) for name, found in right.items()}

    @torch.no_grad()
    def answer(self, conversations: Sequence[Messages], max_tokens: int = 48) -> list[str]:
        """Greedy answers to conversations in words."""
        rows = [self.chat.prompt(messages)[::-1] for messages in conversations]
        # reversed, so that the padding is on the left, where nothing is generated
        ids = pad(rows, self.chat.pad).flip(1).to(self.language.device)
        mask = pad([[1] * len(row) for row in rows], 0).flip(1).to(ids.device)
        how = {"max_new_tokens": max_tokens, "do_sample": False}
        found = self.language.generate(ids, attention_mask=mask, **how)[:, ids.shape[1] :]
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
