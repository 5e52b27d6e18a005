"""Training batches of questions. Questions about one image stand together and share its prefix."""

import logging
from dataclasses import dataclass

import numpy as np
import torch

from edge_lib.config import ConfigError, CurriculumConfig, QAConfig
from edge_lib.data.encoder_output import EncoderOutput, Features
from edge_lib.data.row_items import RowItems
from edge_lib.data.step_dataset import StepDataset, check_divides
from edge_lib.data.table import Table
from edge_lib.data.vocabulary import EOS, Vocabulary, pad

log = logging.getLogger(__name__)
MAX_QUESTION = 500  # characters; the memory of attention grows with the square of the tokens


@dataclass
class QABatch:
    """B questions about N images, B / N for each; answers end with EOS."""

    images: EncoderOutput  # of N
    question_ids: torch.Tensor  # (B, Q)
    answer_ids: torch.Tensor  # (B, A)
    tokens: float  # answer tokens per process, on average: divides the summed loss

    def to(self, device) -> "QABatch":
        ids = self.question_ids.to(device), self.answer_ids.to(device)
        return QABatch(self.images.to(device), *ids, self.tokens)


class QABatches(StepDataset):
    """Shuffled images, each with `questions_per_image` of its questions, drawn in every step."""

    def __init__(
        self,
        table: Table,
        features: Features,
        vocabulary: Vocabulary,
        config: QAConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        batch_size, self.per_image = config.train.batch_size, config.questions_per_image
        check_divides(batch_size, self.per_image * world_size, "qa.train.batch_size")
        self.table, self.features, self.max_answer = table, features, config.max_answer
        questions = table.questions
        self.questions = vocabulary.encode(questions.texts)
        self.answers = [vocabulary.encode(answers) for answers in questions.answers]
        cut = sum(len(ids) >= self.max_answer for answers in self.answers for ids in answers)
        if cut:
            log.warning(
                "%s: %d answers are cut to qa.max_answer=%d", table.name, cut, self.max_answer
            )
        self.by_image = questions_by_image(table, features.valid)
        self.curriculum = _curriculum_questions(self.by_image, questions.kinds, config.curriculum)
        self.curriculum_steps = config.curriculum.steps if config.curriculum else 0
        self.images = np.flatnonzero(self.by_image.counts)[: config.scenes]
        name, per_batch = f"{table.name}: images with questions", batch_size // self.per_image
        super().__init__(name, len(self.images), per_batch, seed, rank, world_size)

    def _draw(self, step: int) -> list[tuple[int, np.ndarray]]:
        """The step's images over all processes, with the numbers of their questions."""
        rng = np.random.default_rng([self.seed, step, 1])
        choices = self.curriculum if step < self.curriculum_steps else self.by_image
        images = self.images[self.units(step)]
        return [(image, _sample(choices[image], self.per_image, rng)) for image in images]

    def ids(self, step: int) -> list[str]:
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
        own = self.share(drawn)
        numbers = np.concatenate([numbers for _, numbers in own])
        return QABatch(
            self.features.gather([image for image, _ in own]),
            pad([self.questions[number] for number in numbers]),
            pad(self.share(answers)),
            # processes have answers of unequal lengths, and gradients are averaged over processes
            sum(map(len, answers)) / self.world_size,
        )


def questions_by_image(table: Table, valid: np.ndarray) -> RowItems:
    """The numbers of each image's questions; none for an image that could not be encoded. Very long
    questions are counted and skipped.
    """
    questions = table.questions
    images, lengths = table.image_index[questions.rows], np.array([*map(len, questions.texts)])
    reason = f"a question of more than {MAX_QUESTION} characters"
    table.skip_rows(reason, questions.rows[lengths > MAX_QUESTION])
    numbers = np.flatnonzero(valid[images] & (lengths <= MAX_QUESTION))
    return RowItems.group(numbers, images[numbers], len(valid))


def _curriculum_questions(
    by_image: RowItems, kinds: list[str], curriculum: CurriculumConfig | None
) -> RowItems:
    """Each image's questions of the curriculum's kinds, or all of them where it has none."""
    if curriculum is None:
        return by_image
    if unknown := set(curriculum.kinds) - set(kinds):
        raise ConfigError(
            f"qa.curriculum.kinds: no question is of kind {', '.join(sorted(unknown))}; "
            f"kinds are {', '.join(sorted(set(kinds)))}"
        )
    early = np.isin(kinds, curriculum.kinds)[by_image.items]
    has_early = by_image.keep(early).counts > 0
    return by_image.keep(early | ~has_early[by_image.rows])


def _sample(numbers: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the numbers in random order, with repeats only where there are too few."""
    repeats, rest = divmod(count, len(numbers))
    return np.concatenate([np.tile(numbers, repeats), rng.permutation(numbers)[:rest]])
