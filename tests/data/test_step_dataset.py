"""StepDataset: order, shares and errors, of any subclass."""

import numpy as np
import pytest

from edge_lib.config import ConfigError
from edge_lib.data.step_dataset import StepDataset, check_divides


class Units(StepDataset):
    """`dataset[step]` is this process's unit numbers."""

    def __getitem__(self, step):
        return self.share(self.units(step))


def make(num_units=23, units_per_batch=4, seed=0, **options):
    return Units("small: units", num_units, units_per_batch, seed, **options)


def test_step_dataset_is_a_function_of_the_step():
    forwards, backwards = make(), make()
    later = {step: backwards[step].tolist() for step in reversed(range(15))}
    assert {step: forwards[step].tolist() for step in range(15)} == later
    assert make(seed=1)[0].tolist() != later[0]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_step_dataset_shares_concatenate_to_the_whole(world_size):
    whole = make()
    shares = [make(rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {share.steps_per_epoch for share in shares} == {5}
    for step in range(12):
        joined = np.concatenate([share[step] for share in shares])
        np.testing.assert_array_equal(joined, whole[step])
    assert shares[-1].share(list("abcd")) == list("abcd")[4 - 4 // world_size :]


def test_step_dataset_repeats_no_unit_in_an_epoch():
    dataset = make()
    epochs = [np.concatenate([dataset[5 * e + step] for step in range(5)]) for e in range(20)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20
    assert set(np.concatenate(epochs)) == set(range(23))


def test_step_dataset_order_equals_a_permutation_of_the_array():
    rows = np.random.default_rng(0).choice(1000, 23, replace=False)
    dataset = make(seed=7)
    for epoch in range(3):
        expected = np.random.default_rng([7, epoch]).permutation(rows)
        np.testing.assert_array_equal(rows[dataset.epoch_order(epoch)], expected)
        first = rows[dataset.units(epoch * dataset.steps_per_epoch)]
        np.testing.assert_array_equal(first, expected[:4])


def test_step_dataset_with_too_few_units_is_a_config_error():
    assert make(num_units=4).steps_per_epoch == 1
    dataset = make(num_units=3)
    with pytest.raises(ConfigError, match="small: units: 3 do not fill one batch of 4"):
        _ = dataset.steps_per_epoch
    with pytest.raises(ConfigError, match="reduce batch_size"):
        _ = dataset[0]


def test_batch_size_must_divide_among_processes():
    check_divides(8, 4)
    with pytest.raises(ConfigError, match=r"train\.batch_size=8 does not divide among 3 processes"):
        check_divides(8, 3, "train.batch_size")
