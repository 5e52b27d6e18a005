"""The base of training sets whose batches are a function of (seed, step) alone.

There is no state to save, so a resumed run reads the same batches. Rows are drawn for all processes
together, so one process and eight read the same global batches; each keeps its own share.
"""

import numpy as np
from torch.utils.data import Dataset

from edge_lib.config import ConfigError
from edge_lib.data.shuffle import Shuffle

SMALL = 2**16  # units that are permuted as a whole


class StepDataset(Dataset):
    """`dataset[step]` is this process's share of the batch of a step. Subclasses define
    `__getitem__` and `ids`.

    Units are shuffled: a unit is a row, a group of rows, or an image with its questions. The last
    units of an epoch that fill no batch are left out.
    """

    def __init__(
        self,
        name: str,
        num_units: int,
        units_per_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        """name: of the table and the units, for error messages."""
        self.name, self.num_units, self.units_per_batch = name, num_units, units_per_batch
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self._epoch, self._order = -1, np.empty(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch. ConfigError if there are too few units for one, or none."""
        steps = self.num_units // self.units_per_batch
        if not self.num_units:
            raise ConfigError(f"{self.name}: there are none")
        if not steps:
            raise ConfigError(
                f"{self.name}: {self.num_units} do not fill one batch of {self.units_per_batch}; "
                "reduce batch_size"
            )
        return steps

    def units(self, step: int) -> np.ndarray:
        """(units_per_batch,) numbers of a step's units over all processes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.epoch_order(epoch)
        start = position * self.units_per_batch
        return self._order[start : start + self.units_per_batch]

    def epoch_order(self, epoch: int) -> np.ndarray | Shuffle:
        """Unit numbers in the order of an epoch, of which a step takes a slice."""
        if self.num_units > SMALL:
            return Shuffle(self.num_units, [self.seed, epoch])
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_units)

    def share(self, values):
        """This process's part of a sequence that holds the values of all processes."""
        size = len(values) // self.world_size
        return values[self.rank * size : (self.rank + 1) * size]

    def ids(self, step: int) -> list[str]:
        """The ids of a step's rows over all processes, for error messages."""
        raise NotImplementedError


def check_divides(batch_size: int, parts: int, key: str = "batch_size") -> None:
    """ConfigError if a batch cannot be divided into equal parts."""
    if batch_size % parts:
        raise ConfigError(f"{key}={batch_size} does not divide among {parts} processes")
