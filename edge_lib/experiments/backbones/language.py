"""Train the tiny language model that the package ships: a Qwen2 for scenes as text.

A VLM represents an image by soft tokens, one for each of the nine cells of a scene. In their place
this model gets one vector per cell: the sum of the embeddings of the words for its content. So it
learns to describe scenes and to answer questions from text alone, and a projector only has to map
images to such vectors.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from edge_lib.config import LanguageBackboneConfig
from edge_lib.data.chat import Chat, Messages
from edge_lib.data.chat_batches import ChatBatch, ChatBatches
from edge_lib.data.chat_store import tokenize
from edge_lib.data.messages import ROLES
from edge_lib.experiments.backbones.text_scenes import (
    CELLS,
    CellTokens,
    TextScenes,
    curriculum_scenes,
    text_scenes,
)
from edge_lib.experiments.backbones.training import require_one_process
from edge_lib.nn.decoders.language import generate_texts, pad_left, supervised_loss
from edge_lib.runs import Run
from edge_lib.runs.tensors import share_tensors
from edge_lib.sources.scenes.captions import parse_things
from edge_lib.sources.scenes.question_kinds import CELL_NAMES
from edge_lib.training.fit import fit

MAX_LENGTH = 1024
MAX_NEW_TOKENS = 48

CARD = """# tiny-qwen2

A `Qwen2ForCausalLM` (0.2M parameters) with its own tokenizer, trained from scratch on conversations
about scenes by `notebooks/00_backbones.ipynb`. In place of an image it was trained on one vector
for each of the nine cells: the sum of the embeddings of the words for place, size, colour and
digit, divided by the square root of their number. Weights in fp16. For demonstrations and tests
only: it has seen no other data.

Accuracy on scenes that were not in its training data:

| | |
|---|---|
{scores}
"""
# Qwen2.5's ChatML with a space before each text: a word is the same token at the start as elsewhere
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n {{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def train_language(config: LanguageBackboneConfig, seed: int, run_folder: Path) -> dict[str, float]:
    """Learn a tokenizer and train a `LanguageReader`; keep the checkpoint with the most right
    answers on val.
    """
    require_one_process()
    first, train = curriculum_scenes(config.data, config.curriculum.kinds)
    val = text_scenes(config.data, "val")
    turns = chain.from_iterable(train.conversations.messages)
    texts = chain((f" {t['content']}" for t in turns), chain.from_iterable(train.words), ROLES)
    tokenizer = learn_tokenizer(texts, config.vocab_size)
    set_seed(seed)
    reader = LanguageReader(config, tokenizer)
    shared = {"image": CellTokens(train.words, tokenizer)}, config.train, seed
    chats = (tokenize(part.conversations, part.table, reader.chat) for part in (first, train))
    batches = CurriculumBatches(
        *(ChatBatches(part, *shared) for part in chats), config.curriculum.steps
    )

    def evaluate(reader: LanguageReader) -> dict[str, float]:
        scores = reader.scores(val)
        return {**{f"val.{k}": v for k, v in scores.items()}, "score": scores["answers"]}

    return fit(reader, batches, config.train, Run(run_folder), evaluate, seed)


@dataclass
class CurriculumBatches(Dataset):
    """The batches of `first` for a number of steps, then those of `rest`."""

    first: ChatBatches
    rest: ChatBatches
    steps: int

    @property
    def steps_per_epoch(self) -> int:
        return self.rest.steps_per_epoch

    def _part(self, step: int) -> ChatBatches:
        return self.first if step < self.steps else self.rest

    def ids(self, step: int) -> list[str]:
        return self._part(step).ids(step)

    def __getitem__(self, step: int) -> ChatBatch:
        return self._part(step)[step]


class LanguageReader(nn.Module):
    """A small Qwen2 and its tokenizer, for conversations whose images are replaced by words."""

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
                rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # Qwen2.5's
                # Qwen2's 0.02, scaled to a narrow model: with smaller weights its loss stays flat
                initializer_range=config.width**-0.5,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    def forward(self, batch: ChatBatch) -> Tensor:
        """Mean cross-entropy () of the assistant's tokens."""
        embedded = self.embed(batch.input_ids, batch.prefixes["image"])
        inputs = {"inputs_embeds": embedded, "attention_mask": batch.attention_mask}
        loss = supervised_loss(self.language, batch.labels, **inputs, use_cache=False)
        return loss / batch.tokens

    def embed(self, ids: Tensor, cells: Tensor) -> Tensor:
        """Token ids (B, S), and (N, CELLS, T) of the cells that replace images -> (B, S, W)."""
        embedding = self.language.get_input_embeddings()
        placeholders = ids == self.chat.placeholders["image"]
        mask = (cells != self.chat.pad)[..., None]
        # divided by the root of their number, the sum of T words is about as large as one word
        soft = (embedding(cells) * mask).sum(2) / mask.sum(2).sqrt()
        embedded = embedding(ids.masked_fill(placeholders, 0))
        return embedded.masked_scatter(placeholders[..., None], soft)

    @torch.no_grad()
    def scores(self, scenes: TextScenes, batch_size: int = 128) -> dict[str, float]:
        """answers: share of first answers that are exactly right. things: share of the things in
        the scenes that descriptions name with the right digit, colour and place.
        """
        cells, data = CellTokens(scenes.words, self.chat.tokenizer), scenes.conversations
        exact, named, total = [], 0, 0
        for start in range(0, len(data.messages), batch_size):
            part = slice(start, start + batch_size)
            questions, references = zip(*(turns[:2] for turns in data.messages[part]), strict=True)
            batch = cells.gather([number for (number,) in data.image_rows[part]])
            answers = self.answer([[question] for question in questions], batch)
            references = [reference["content"] for reference in references]
            for kind, answer, reference in zip(data.kinds[part], answers, references, strict=True):
                if kind == "caption":
                    things = parse_things(reference)
                    named, total = named + len(things & parse_things(answer)), total + len(things)
                else:
                    exact.append(answer == reference)
        return {"answers": float(np.mean(exact)), "things": named / total}

    @torch.no_grad()
    def answer(self, conversations: list[Messages], cells: Tensor) -> list[str]:
        """Greedy answers to B conversations, each about the scene of its cells (B, CELLS, T)."""
        device = self.language.device
        rows = [self.chat.prompt(messages) for messages in conversations]
        ids, mask = (x.to(device) for x in pad_left(rows, self.chat.pad))
        embedded = self.embed(ids, cells.to(device))
        options = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False}
        return generate_texts(self.language, self.chat.tokenizer, embedded, mask, **options)

    def save_pretrained(self, folder: Path) -> None:
        """Write model (fp16) and tokenizer as a transformers checkpoint."""
        deepcopy(self.language).half().save_pretrained(folder)
        share_tensors(folder)
        self.chat.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: Path, config: LanguageBackboneConfig) -> "LanguageReader":
        """Load what `save_pretrained` wrote, in fp32 and evaluation mode."""
        reader = cls(config, AutoTokenizer.from_pretrained(folder))
        reader.language = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return reader.eval()


def learn_tokenizer(texts: Iterable[str], size: int) -> Qwen2Tokenizer:
    """Learn Qwen2's byte-level BPE with `size` tokens from texts; with a chat template.

    The name of each cell is one token. The tokens of a cell are summed: as two tokens,
    "bottom-left" would be half the same as "bottom", and neighbours hard to distinguish.
    """
    octets = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Qwen2Tokenizer(vocab={octet: number for number, octet in enumerate(octets)}, merges=[])
    tokenizer = bare.train_new_from_iterator(texts, size, new_special_tokens=[PAD, START, END])
    tokenizer.add_tokens([f" {name}" for name in CELL_NAMES if "-" in name])
    tokenizer.pad_token, tokenizer.eos_token = PAD, END
    tokenizer.chat_template = TEMPLATE
    return tokenizer
