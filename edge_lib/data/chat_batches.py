"""Batches of conversations, tokenised once, with the features that their placeholders stand for.

Like alignment batches they are a function of (seed, step) alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from edge_lib.config import ConfigError
from edge_lib.data.alignment_batches import Features
from edge_lib.data.chat import IGNORE, Chat, ChatError
from edge_lib.data.conversations import Conversations
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.data.vocabulary import pad


@dataclass
class ChatBatch:
    """B conversations, padded on the right."""

    input_ids: torch.Tensor  # (B, S) a placeholder's wherever a vector will be
    attention_mask: torch.Tensor  # (B, S) bool, False on padding
    labels: torch.Tensor  # (B, S) IGNORE but on what assistants say
    prefixes: dict[str, EncoderOutput]  # of all images and of all clips, in order; none, no entry
    tokens: float  # that have a label, a batch's share of an update's: what a sum is divided by

    def to(self, device) -> "ChatBatch":
        ids = (x.to(device) for x in (self.input_ids, self.attention_mask, self.labels))
        prefixes = {name: encoded.to(device) for name, encoded in self.prefixes.items()}
        return ChatBatch(*ids, prefixes, self.tokens)


ALIKE = 16  # batches whose conversations are sorted by length before they are cut


class ChatBatches(Dataset):
    """Shuffled conversations, those of a batch about equally long, so that few places are padding;
    one refused by the chat, or without features, is counted and skipped.

    features: of each placeholder, numbered as the table's rows.
    """

    def __init__(
        self,
        conversations: Conversations,
        table: Table,
        features: dict[str, Features],
        chat: Chat,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
    ):
        if batch_size % world_size:
            raise ConfigError(f"batch_size={batch_size} does not divide among {world_size} ranks")
        self.table, self.chat, self.batch_size, self.seed = table, chat, batch_size, seed
        self.rank, self.world_size, self.accumulation = rank, world_size, accumulation
        self.features = features
        self.usable = []  # each one's row, ids and labels (2, S), and items by placeholder
        about = (conversations.rows.tolist(), conversations.messages, conversations.pictures)
        for row, messages, pictures in zip(*about, strict=True):
            clips = [row] * chat.count(messages)["audio"]
            self._add(row, messages, {"image": pictures, "audio": clips})
        self.lengths = np.array([tokens.shape[1] for _, tokens, _ in self.usable])
        self.labelled = np.array([(tokens[1] != IGNORE).sum() for _, tokens, _ in self.usable])
        self.epoch, self.order = -1, np.empty((0, batch_size), np.int64)

    @property
    def steps_per_epoch(self) -> int:
        steps = len(self.usable) // self.batch_size
        if not steps:
            found, size = f"{self.table.name}: {len(self.usable)} conversations", self.batch_size
            raise ConfigError(f"{found} do not fill one batch of {size}; reduce batch_size")
        return steps

    def _add(self, row: int, messages: list[dict], items: dict[str, list[int]]) -> None:
        """Tokenise a conversation and keep it, if that can be done and its items are there."""
        try:
            tokens = np.array(self.chat.encode(messages), np.int32)
        except ChatError as error:
            self.table.skip("refused by the chat", row, error)
            return
        if not all(features.valid[items[name]].all() for name, features in self.features.items()):
            self.table.skip("an image or clip that could not be encoded", row)
            return
        self.usable.append((row, tokens, items))

    def _draw(self, step: int) -> np.ndarray:
        """Numbers of the step's conversations over all processes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self._shuffled(epoch)
        return self.order[position]

    def _share(self, step: int) -> float:
        """A batch's part of the labels in one update: ranks and accumulated batches have unequally
        many, and their gradients are averaged.
        """
        first = step - step % self.accumulation
        drawn = [self._draw(number) for number in range(first, first + self.accumulation)]
        return self.labelled[np.concatenate(drawn)].sum() / (self.world_size * self.accumulation)

    def _shuffled(self, epoch: int) -> np.ndarray:
        """(steps_per_epoch, batch_size) numbers of conversations; the last few are left out."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.usable))[: self.steps_per_epoch * self.batch_size]
        parts = np.split(order, range(ALIKE * self.batch_size, len(order), ALIKE * self.batch_size))
        order = np.concatenate(
            [part[np.argsort(self.lengths[part], kind="stable")] for part in parts]
        )
        return rng.permutation(order.reshape(-1, self.batch_size))

    def ids(self, step: int) -> list[str]:
        """The ids of a step's rows, for error messages."""
        return [self.table.ids[self.usable[number][0]] for number in self._draw(step)]

    def __getitem__(self, step: int) -> ChatBatch:
        share = self.batch_size // self.world_size
        mine = self._draw(step)[self.rank * share : (self.rank + 1) * share]
        return self._batch(mine, float(self._share(step)))

    def once(self) -> Iterator[ChatBatch]:
        """Every conversation once, for evaluation: those about equally long together, the last
        batch perhaps a short one.
        """
        if not self.usable:
            raise ConfigError(f"{self.table.name}: no conversation that the model can read")
        order = np.argsort(self.lengths, kind="stable")
        for drawn in np.split(order, range(self.batch_size, len(order), self.batch_size)):
            yield self._batch(drawn, float(self.labelled[drawn].sum()))

    def _batch(self, drawn: np.ndarray, tokens: float) -> ChatBatch:
        mine = [self.usable[number] for number in drawn]
        ids, labels = zip(*(tokens for _, tokens, _ in mine), strict=True)
        prefixes = {}
        for name, features in self.features.items():
            if wanted := [item for *_, items in mine for item in items[name]]:
                prefixes[name] = features.gather(wanted)
        return ChatBatch(
            pad(ids, self.chat.pad),
            pad([np.ones(len(row)) for row in ids], 0).bool(),
            pad(labels, IGNORE),
            prefixes,
            tokens,
        )
