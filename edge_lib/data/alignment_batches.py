"""Training batches of rows that have at least two modalities."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from edge_lib.config import MODALITIES, ConfigError, TrainConfig
from edge_lib.data.encoder_output import EncoderOutput, Features
from edge_lib.data.fusemix import Items, draw_partners
from edge_lib.data.row_items import RowItems, compact
from edge_lib.data.shuffle import Shuffle
from edge_lib.data.step_dataset import StepDataset, check_divides
from edge_lib.data.table import Table


@dataclass
class Batch:
    """B rows. Where `present` is False, a modality's features are those of another row."""

    step: int
    rows: np.ndarray  # (B,) row numbers in the table
    features: dict[str, EncoderOutput]
    present: dict[str, torch.Tensor]  # (B,) bool for each modality
    # (B,) int64 for each modality, equal for equal items
    labels: dict[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device) -> "Batch":
        features = {name: value.to(device) for name, value in self.features.items()}
        present = {name: value.to(device) for name, value in self.present.items()}
        labels = {name: value.to(device) for name, value in self.labels.items()}
        return Batch(self.step, self.rows, features, present, labels)


class AlignmentBatches(StepDataset):
    """Shuffled rows with one random item (image, clip, caption) of each modality.

    missing: modality -> share of rows that lose it, to study missing data.
    hard_negatives: batches hold whole groups of rows that are edits of one another.
    captions_per_row: how many captions of a row stand in its batch, each beside an image of the
        row, as far as it has so many: right answers for one another, by their equal labels.
    fusemix: rows are mixed with others, with a weight from Beta(fusemix, fusemix); 0 mixes none.
    """

    def __init__(
        self,
        table: Table,
        features: dict[str, Features],
        train: TrainConfig,
        seed: int,
        missing: Mapping[str, float] | None = None,
        hard_negatives: bool = False,
        rank: int = 0,
        world_size: int = 1,
        captions_per_row: int = 1,
        fusemix: float = 0.0,
    ):
        check_divides(train.batch_size, world_size, "train.batch_size")
        self.table, self.features = table, features
        self.batch_size, self.text_dropout = train.batch_size, train.text_dropout
        self.captions_per_row, self.fusemix = captions_per_row, fusemix
        self.miner: Callable[[int], np.ndarray | None] | None = None  # `mining.HardNegatives`
        all_items = {name: usable_items(table, name, f.valid) for name, f in features.items()}
        self.items = {
            name: _drop_items(items, name, (missing or {}).get(name, 0), seed)
            for name, items in all_items.items()
        }
        # a group stays whole even if dropped modalities leave one of its rows with fewer than two
        eligible = all_items if hard_negatives else self.items
        rows = compact(np.flatnonzero(sum(items.counts > 0 for items in eligible.values()) >= 2))
        self.blocks = self._whole_groups(rows) if hard_negatives else rows[:, None]
        blocks_per_batch = self.batch_size // (self.blocks.shape[1] * captions_per_row)
        kind = "usable rows" if len(rows) else "rows with two modalities"
        name = f"{table.name}: {kind}"
        super().__init__(name, len(self.blocks), blocks_per_batch, seed, rank, world_size)

    def _whole_groups(self, rows: np.ndarray) -> np.ndarray:
        """(N, G) the rows of each group that is complete; (N, 1) rows if they fill no batch."""
        if len(rows) * self.captions_per_row < self.batch_size:
            return rows[:, None]
        groups, sizes = np.unique(self.table.groups[rows], return_counts=True)
        size = int(sizes.max())
        if size == 1:
            raise ConfigError(f"data.hard_negatives: {self.table.name} has no groups of rows")
        if self.batch_size % (size * self.captions_per_row):
            times = f" times data.captions_per_row={self.captions_per_row}"
            raise ConfigError(
                f"data.hard_negatives: train.batch_size={self.batch_size} is not a multiple of the "
                f"group size {size}{times if self.captions_per_row > 1 else ''}"
            )
        complete = rows[np.isin(self.table.groups[rows], groups[sizes == size])]
        order = np.argsort(self.table.groups[complete], kind="stable")
        return complete[order].reshape(-1, size)

    def epoch_order(self, epoch: int) -> np.ndarray | Shuffle:
        """The shuffled units; once there are mined neighbours, near ones together."""
        order, neighbours = super().epoch_order(epoch), self.miner and self.miner(epoch)
        return order if neighbours is None else neighbour_order(order[:], neighbours)

    def global_rows(self, step: int) -> np.ndarray:
        """(batch_size,) the rows of a step over all processes, once for each of their captions."""
        return self.blocks[self.units(step)].ravel().repeat(self.captions_per_row)

    def ids(self, step: int) -> list[str]:
        return [self.table.ids[row] for row in self.global_rows(step)]

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step, 1])
        rows = self.global_rows(step)
        numbers = {name: self._pick(name, rows, rng) for name in self.features}
        items = {name: self._gather(name, own) for name, own in numbers.items()}
        if self.fusemix:
            weight = rng.beta(self.fusemix, self.fusemix)
            partners = draw_partners(np.stack([*numbers.values()]) >= 0, rng)
            items = {
                name: own.mix(self._gather(name, numbers[name][partners]), weight)
                for name, own in items.items()
            }
        features = {name: own.features for name, own in items.items()}
        present = {name: own.present for name, own in items.items()}
        labels = {name: own.labels for name, own in items.items()}
        return Batch(step, self.share(rows), features, present, labels)

    def _gather(self, name: str, numbers: np.ndarray) -> Items:
        """This process's share of the items with these numbers; -1 where there is none."""
        source, numbers = self.features[name], self.share(numbers)
        # a missing item needs features of the right shape: those of any valid item
        gathered = np.where(numbers < 0, np.argmax(source.valid), numbers)
        features = source.gather(gathered)
        present = torch.from_numpy((numbers >= 0) & source.valid[gathered])
        labels = torch.from_numpy(self.table.item_labels(name, gathered))
        return Items(features, present, labels)

    def _pick(self, name: str, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(batch_size,) an item of each row, -1 for none; the captions of a row are different."""
        count, draws = self.captions_per_row, rng.random(len(rows))
        if name != "text":
            return self.items[name].pick(rows, draws)
        turns = np.arange(len(rows)) % count
        items = self.items[name].pick(rows, draws[::count].repeat(count), turns)
        items[rng.random(len(items)) < self.text_dropout] = -1
        return items


class AlternateBatches(Dataset):
    """Batches of a main set; each `every`-th one is of one of the other sets, which take turns."""

    def __init__(self, main: AlignmentBatches, others: Sequence[AlignmentBatches], every: int):
        self.main, self.others, self.every = main, others, every
        self.steps_per_epoch = main.steps_per_epoch

    def __getitem__(self, step: int) -> Batch:
        batches, own = self._locate(step)
        return replace(batches[own], step=step)

    def ids(self, step: int) -> list[str]:
        batches, own = self._locate(step)
        return batches.ids(own)

    def _locate(self, step: int) -> tuple[AlignmentBatches, int]:
        """The set of a step and the step's number in it."""
        if not self.others or (step + 1) % self.every:
            return self.main, step
        own, turn = divmod(step // self.every, len(self.others))
        return self.others[turn], own


def _drop_items(items: RowItems, modality: str, share: float, seed: int) -> RowItems:
    """Each row's items, none for a random share of the rows."""
    if not share:
        return items
    rng = np.random.default_rng([seed, list(MODALITIES).index(modality), 2])
    dropped = rng.random(len(items)) < share
    return items.keep(~dropped[items.rows])


def usable_items(table: Table, modality: str, valid: np.ndarray) -> RowItems:
    """For each row, the numbers of its items that could be encoded."""
    return RowItems.group(*table.row_items(modality, valid), len(table))


def neighbour_order(order: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """The units of an order, each followed by those of its neighbours (U, k) that have not come."""
    come, result = set(), []
    for unit in order.tolist():
        if unit in come:
            continue
        near = dict.fromkeys([unit, *neighbours[unit].tolist()])
        group = [other for other in near if other >= 0 and other not in come]
        come.update(group)
        result += group
    return np.array(result, np.int64)
