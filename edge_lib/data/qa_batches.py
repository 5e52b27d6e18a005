"""Batches of questions, those about one image together: its prefix is read once for all of them.

Like alignment batches they are a function of (seed, step) alone.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from edge_lib.config import ConfigError, CurriculumConfig, ExperimentConfig, TrainConfig
from edge_lib.data.alignment_batches import Features
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.data.vocabulary import EOS, Vocabulary, pad


@dataclass
class QABatch:
    """B questions about N images, k to each; answers end with EOS."""

    images: EncoderOutput  # of N
    question_ids: torch.Tensor  # (B, Q)
    answer_ids: torch.Tensor  # (B, A)
    tokens: float  # of answers, a process's share of all: what a sum over them is divided by

    def to(self, device) -> "QABatch":
        ids = self.question_ids.to(device), self.answer_ids.to(device)
        return QABatch(self.images.to(device), *ids, self.tokens)


class QABatches(Dataset):
    """Shuffled images, each with k of its questions, drawn anew in every epoch."""

    def __init__(
        self,
        table: Table,
        features: Features,
        vocabulary: Vocabulary,
        config: ExperimentConfig,
        train: TrainConfig,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.table, self.features, self.seed = table, features, config.seed
        self.each, self.max_answer = config.qa.questions_per_image, config.qa.max_answer
        self.rank, self.world_size = rank, world_size
        if train.batch_size % (self.each * world_size):
            raise ConfigError(
                f"qa.train.batch_size={train.batch_size} does not divide into {world_size} "
                f"processes of qa.questions_per_image={self.each}"
            )
        self.images_per_batch = train.batch_size // self.each
        asked = table.questions
        self.questions = vocabulary.encode(asked.texts)
        self.answers = [vocabulary.encode(answers) for answers in asked.answers]
        self.of_picture = questions_by_image(table, features.valid)
        self.at_first = _first(self.of_picture, asked.kinds, config.qa.curriculum)
        self.steps_at_first = config.qa.curriculum.steps if config.qa.curriculum else 0
        pictures = [p for p, numbers in enumerate(self.of_picture) if len(numbers)]
        self.pictures = np.array(pictures[: config.qa.scenes])
        self.steps_per_epoch = len(self.pictures) // self.images_per_batch
        if not self.steps_per_epoch:
            raise ConfigError(
                f"{table.name}: {len(self.pictures)} images with questions do not fill one batch "
                f"of {self.images_per_batch}"
            )

    def _draw(self, step: int) -> list[tuple[int, np.ndarray]]:
        """The step's pictures over all processes, with the questions asked about each."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
        start = position * self.images_per_batch
        rng = np.random.default_rng([self.seed, step, 1])
        pictures = order[start : start + self.images_per_batch]
        asked = self.at_first if step < self.steps_at_first else self.of_picture
        return [(p, _some(asked[p], self.each, rng)) for p in pictures]

    def ids(self, step: int) -> list[str]:
        """The ids of a step's rows, for error messages."""
        rows = self.table.questions.rows
        return [
            self.table.ids[rows[number]] for _, numbers in self._draw(step) for number in numbers
        ]

    def __getitem__(self, step: int) -> QABatch:
        drawn = self._draw(step)
        rng = np.random.default_rng([self.seed, step, 2])
        references = (self.answers[number] for _, numbers in drawn for number in numbers)
        chosen = (choices[int(rng.integers(len(choices)))] for choices in references)
        answers = [[*answer[: self.max_answer - 1], EOS] for answer in chosen]
        share = self.images_per_batch // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        numbers = np.concatenate([numbers for _, numbers in drawn[mine]])
        return QABatch(
            self.features.gather([picture for picture, _ in drawn[mine]]),
            pad([self.questions[number] for number in numbers]),
            pad(answers[mine.start * self.each : mine.stop * self.each]),
            # ranks have answers of unequal lengths, and gradients are averaged over ranks
            sum(map(len, answers)) / self.world_size,
        )


def questions_by_image(table: Table, valid: np.ndarray) -> list[np.ndarray]:
    """For each picture that could be encoded, the numbers of its questions; for others none."""
    owners = table.pictures[table.questions.rows]
    order = np.argsort(owners, kind="stable")
    found = np.split(order, np.searchsorted(owners[order], np.arange(1, len(valid))))
    return [numbers if there else numbers[:0] for numbers, there in zip(found, valid, strict=True)]


def _first(
    of_picture: list[np.ndarray], kinds: list[str], curriculum: CurriculumConfig | None
) -> list[np.ndarray]:
    """Of each picture the questions of the curriculum's kinds; all of one that has none of them."""
    if curriculum is None:
        return of_picture
    if unknown := set(curriculum.kinds) - set(kinds):
        raise ConfigError(
            f"qa.curriculum.kinds: no question is of kind {', '.join(sorted(unknown))}; "
            f"there are {', '.join(sorted(set(kinds)))}"
        )
    first = np.isin(kinds, curriculum.kinds)
    chosen = [numbers[first[numbers]] for numbers in of_picture]
    return [few if len(few) else every for few, every in zip(chosen, of_picture, strict=True)]


def _some(numbers: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the numbers; if there are fewer, all of them and some again."""
    whole, rest = divmod(count, len(numbers))
    return np.concatenate([np.tile(numbers, whole), rng.permutation(numbers)[:rest]])
