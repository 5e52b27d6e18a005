"""Training batches of conversations, tokenised once, with the features for their placeholders."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from edge_lib.config import ConfigError
from edge_lib.data.chat import IGNORE, Chat, ChatError
from edge_lib.data.conversations import Conversations
from edge_lib.data.encoder_output import EncoderOutput, Features
from edge_lib.data.step_dataset import StepDataset, check_divides
from edge_lib.data.table import Table
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


@dataclass
class _Example:
    """A tokenised conversation."""

    row: int
    tokens: np.ndarray  # (2, S) ids and labels
    items: dict[str, list[int]]  # item numbers by placeholder


class ChatBatches(StepDataset):
    """Shuffled conversations; those of one batch have similar lengths, so that little is padded.

    A conversation that the chat template refuses, or whose items were not encoded, is counted and
    skipped. features: for each placeholder, numbered as the table's rows. accumulation: batches in
    one update.
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
        check_divides(batch_size, world_size)
        self.table, self.chat, self.features = table, chat, features
        self.batch_size, self.accumulation = batch_size, accumulation
        columns = conversations.rows.tolist(), conversations.messages, conversations.image_rows
        examples = (self._example(*values) for values in zip(*columns, strict=True))
        self.examples = [example for example in examples if example]
        self.lengths = np.array([example.tokens.shape[1] for example in self.examples])
        self.labelled = np.array([(e.tokens[1] != IGNORE).sum() for e in self.examples])
        name = f"{table.name}: conversations"
        super().__init__(name, len(self.examples), batch_size, seed, rank, world_size)

    def _example(self, row: int, messages: list[dict], image_rows: list[int]) -> _Example | None:
        items = {"image": image_rows, "audio": [row] * self.chat.count(messages)["audio"]}
        try:
            tokens = np.array(self.chat.encode(messages), np.int32)
        except ChatError as error:
            self.table.skip("refused by the chat template", row, error)
            return None
        if not all(source.valid[items[name]].all() for name, source in self.features.items()):
            self.table.skip("an image or clip could not be encoded", row)
            return None
        return _Example(row, tokens, items)

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
        return [self.table.ids[self.examples[number].row] for number in self.units(step)]

    def __getitem__(self, step: int) -> ChatBatch:
        return self._batch(self.share(self.units(step)), float(self._tokens_per_batch(step)))

    def once(self) -> Iterator[ChatBatch]:
        """Every conversation once, sorted by length; the last batch may be short."""
        if not self.examples:
            raise ConfigError(f"{self.name}: none can be used")
        order = np.argsort(self.lengths, kind="stable")
        for numbers in np.split(order, range(self.batch_size, len(order), self.batch_size)):
            yield self._batch(numbers, float(self.labelled[numbers].sum()))

    def _batch(self, numbers: np.ndarray, tokens: float) -> ChatBatch:
        examples = [self.examples[number] for number in numbers]
        ids, labels = zip(*(example.tokens for example in examples), strict=True)
        prefixes = {}
        for name, source in self.features.items():
            if items := [item for example in examples for item in example.items[name]]:
                prefixes[name] = source.gather(items)
        return ChatBatch(
            pad(ids, self.chat.pad),
            pad([np.ones(len(row)) for row in ids], 0).bool(),
            pad(labels, IGNORE),
            prefixes,
            tokens,
        )
