"""Training batches of conversations, tokenised once, with the features for their placeholders."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from edge_lib.config import ConfigError, TrainConfig
from edge_lib.data.chat import IGNORE
from edge_lib.data.encoder_output import EncoderOutput, Features
from edge_lib.data.step_dataset import StepDataset, check_divides
from edge_lib.data.tokenized import TokenizedConversations
from edge_lib.data.vocabulary import pad

SORTED_BATCHES = 16  # batches whose conversations are sorted by length before they are divided


@dataclass
class ChatBatch:
    """B conversations, padded on the right."""

    input_ids: torch.Tensor  # (B, S) a placeholder's id wherever a soft token goes
    attention_mask: torch.Tensor  # (B, S) bool, False on padding
    labels: torch.Tensor  # (B, S) IGNORE except on assistant turns
    prefixes: dict[str, EncoderOutput]  # features of all images, of all clips, in order
    tokens: float  # labelled tokens per batch, averaged over the update: divides the summed loss

    def to(self, device) -> "ChatBatch":
        ids = (x.to(device) for x in (self.input_ids, self.attention_mask, self.labels))
        prefixes = {name: features.to(device) for name, features in self.prefixes.items()}
        return ChatBatch(*ids, prefixes, self.tokens)


class ChatBatches(StepDataset):
    """Shuffled conversations; those of one batch have similar lengths, so that little is padded.

    A conversation whose items were not encoded is counted and skipped. features: for each
    placeholder, numbered as the table's rows.
    """

    def __init__(
        self,
        conversations: TokenizedConversations,
        features: dict[str, Features],
        train: TrainConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        check_divides(train.batch_size, world_size)
        self.features, self.batch_size = features, train.batch_size
        self.accumulation = train.accumulation  # batches in one update
        valid = {name: source.valid for name, source in features.items()}
        self.conversations = conversations.with_features(valid)
        self.table, self.chat = conversations.table, conversations.chat
        self.lengths, self.labelled = self.conversations.lengths, self.conversations.labelled
        name = f"{self.table.name}: conversations"
        super().__init__(name, len(self.conversations), self.batch_size, seed, rank, world_size)

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Batches of similar lengths, in random order."""
        rng, size = np.random.default_rng([self.seed, epoch]), SORTED_BATCHES * self.batch_size
        order = rng.permutation(self.num_units)[: self.steps_per_epoch * self.batch_size]
        parts = np.split(order, range(size, len(order), size))
        by_length = [part[np.argsort(self.lengths[part], kind="stable")] for part in parts]
        return rng.permutation(np.concatenate(by_length).reshape(-1, self.batch_size)).ravel()

    def _tokens_per_batch(self, step: int) -> float:
        """Mean number of labels per batch of an update. Batches have different numbers of labels,
        but gradients are averaged over processes and accumulated batches with equal weights.
        """
        first = step - step % self.accumulation
        drawn = [self.units(number) for number in range(first, first + self.accumulation)]
        return self.labelled[np.concatenate(drawn)].sum() / (self.world_size * self.accumulation)

    def ids(self, step: int) -> list[str]:
        return [self.table.ids[row] for row in self.conversations.rows[self.units(step)]]

    def __getitem__(self, step: int) -> ChatBatch:
        return self._batch(self.share(self.units(step)), float(self._tokens_per_batch(step)))

    def once(self) -> Iterator[ChatBatch]:
        """Every conversation once, sorted by length, in batches of this process's share; the last
        one may be short.
        """
        if not len(self.conversations):
            raise ConfigError(f"{self.name}: none can be used")
        order = np.argsort(self.lengths, kind="stable")
        size = self.batch_size // self.world_size
        for numbers in np.split(order, range(size, len(order), size)):
            yield self._batch(numbers, float(self.labelled[numbers].sum()))

    def _batch(self, numbers: np.ndarray, tokens: float) -> ChatBatch:
        ids, labels = zip(*(self.conversations[number] for number in numbers), strict=True)
        items, prefixes = [self.conversations.items(number) for number in numbers], {}
        for name, source in self.features.items():
            if rows := [row for own in items for row in own[name]]:
                prefixes[name] = source.gather(rows)
        mask = pad([np.ones(len(row)) for row in ids], 0).bool()
        return ChatBatch(pad(ids, self.chat.pad), mask, pad(labels, IGNORE), prefixes, tokens)
