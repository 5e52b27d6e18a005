"""Mined hard negatives against brute force, and what they make of an epoch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from edge_lib.config import MiningConfig, TrainConfig
from edge_lib.data.alignment_batches import AlignmentBatches, neighbour_order
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.experiments import mining
from edge_lib.experiments.align import train_aligner
from edge_lib.experiments.mining import HardNegatives
from edge_lib.features.extract import write_features
from edge_lib.runs import Run
from edge_lib.runs.arrays import load_array, save_array
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.progress import Reporter

WEIGHTS = "model.safetensors"
ROWS, PAIR = 60, ("vision", "text")


class Vectors:
    """Features of which the pooled vectors are given."""

    def __init__(self, vectors, valid=None):
        self.vectors = vectors
        self.valid = np.ones(len(vectors), bool) if valid is None else valid

    def gather(self, items):
        return EncoderOutput(None, None, self.vectors[torch.as_tensor(items)])


class Projection(nn.Module):
    """An aligner that scales pooled vectors, in training by dropout as well."""

    device = "cpu"

    def __init__(self):
        super().__init__()
        self.scale, self.dropout = nn.Parameter(torch.ones(8)), nn.Dropout(0.5)

    def embed_output(self, modality, output):
        return self.dropout(output.pooled * self.scale)


@pytest.fixture
def make(make_table):
    """make(captions of each row, ...) -> AlignmentBatches with random vectors."""

    def make(captions=None, valid=None, groups=range(ROWS), batch_size=12, **options):
        captions = captions or [[f"caption {i}"] for i in range(ROWS)]
        rows = enumerate(zip(captions, groups, strict=True))
        table = make_table(
            [{"id": f"r{i}", "texts": x, "group": int(group)} for i, (x, group) in rows]
        )
        torch.manual_seed(0)
        features = {
            "vision": Vectors(torch.randn(ROWS, 8), valid),
            "text": Vectors(torch.randn(len(table.captions), 8)),
        }
        return AlignmentBatches(table, features, TrainConfig(batch_size=batch_size), 0, **options)

    return make


def miner(batches, folder, k=3, every=1, aligner=None):
    config = MiningConfig(k=k, every=every)
    return HardNegatives(aligner or Projection(), batches, PAIR, config, folder)


def nearest(batches, rows, texts, k, equal):
    """(n, k) places in `rows` of the images nearest to each text, by a plain loop in float64."""
    images = F.normalize(batches.features["vision"].vectors[rows].double())
    texts = F.normalize(batches.features["text"].vectors[texts].double())
    result = []
    for place, scores in enumerate(texts @ images.T):
        order = scores.argsort(descending=True).tolist()
        result.append([j for j in order if j != place and not equal(place, j)][:k])
    return result


def test_mining_finds_the_nearest_other_rows(make, tmp_path):
    batches = make()
    aligner = Projection().train()
    found = miner(batches, tmp_path, aligner=aligner).find()
    rows = batches.blocks[:, 0]
    assert found.tolist() == nearest(batches, rows, rows, 3, lambda i, j: False)
    assert aligner.training, "it searches without dropout, and trains with it"


def test_mining_leaves_out_rows_with_an_equal_caption(make, tmp_path):
    """The second captions of rows 0, 6, 12, ... are equal, and so on; the first are not."""
    captions = [[f"own {i}", f"shared {i % 6}"] for i in range(ROWS)]
    batches = make(captions)
    found = miner(batches, tmp_path, k=4).find()
    rows = batches.blocks[:, 0]
    expected = nearest(batches, rows, 2 * rows, 4, lambda i, j: (rows[i] - rows[j]) % 6 == 0)
    assert found.tolist() == expected


def test_mining_of_rows_that_are_all_equal_finds_none(make, tmp_path):
    found = miner(make([["the same"]] * ROWS), tmp_path).find()
    assert (found == -1).all()


def test_mining_skips_rows_that_lack_an_item(make_table, tmp_path):
    """Rows with sound and text alone take part in training, not in the search of images."""
    rows = [{"id": f"r{i}", "texts": [f"caption {i}"], "audio": b"x"} for i in range(ROWS)]
    features = {name: Vectors(torch.randn(ROWS, 8)) for name in ("vision", "audio", "text")}
    features["vision"].valid = np.arange(ROWS) % 3 > 0
    batches = AlignmentBatches(make_table(rows), features, TrainConfig(batch_size=12), 0)
    found = miner(batches, tmp_path).find()
    assert (found[::3] == -1).all()
    assert (found[1::3] >= 0).all()
    assert (found[found >= 0] % 3 > 0).all()


def test_mining_searches_again_after_some_epochs(make, tmp_path):
    batches, aligner = make(), Projection()
    mine = miner(batches, tmp_path / "mined", every=2, aligner=aligner)
    assert mine(0) is None
    assert mine(1) is None
    first = mine(2)
    with torch.no_grad():
        aligner.scale[:4] = 0
    np.testing.assert_array_equal(mine(3), first)
    assert (mine(4) != first).any()
    assert sorted(path.name for path in (tmp_path / "mined").iterdir()) == [
        "epoch-2.npz",
        "epoch-4.npz",
    ]
    resumed = miner(batches, tmp_path / "mined", every=2, aligner=aligner)
    np.testing.assert_array_equal(resumed(3), first, "a resumed run reads what was found")


def test_mining_is_done_by_the_first_process_alone(make, tmp_path, monkeypatch):
    batches, expected = make(), np.arange(ROWS)[:, None]
    monkeypatch.setattr(mining, "process_rank", lambda: (1, 2))
    monkeypatch.setattr(mining, "world_size", lambda: 2)
    wait = SimpleNamespace(barrier=lambda: save_array(tmp_path / "epoch-1.npz", expected))
    monkeypatch.setattr(mining, "dist", wait)
    mine = miner(batches, tmp_path)
    monkeypatch.setattr(mine, "find", lambda: pytest.fail("the second process searches"))
    np.testing.assert_array_equal(mine(1), expected)


def test_neighbour_order_is_a_permutation_with_neighbours_side_by_side():
    neighbours = np.array([[3, 1], [0, 2], [-1, -1], [0, 4], [2, 2], [5, 0]])
    order = np.array([1, 5, 3, 4, 0, 2])
    assert neighbour_order(order, neighbours).tolist() == [1, 0, 2, 5, 3, 4]
    nothing = np.full((6, 2), -1)
    assert neighbour_order(order, nothing).tolist() == order.tolist()


def epoch_rows(batches, epoch):
    steps = batches.steps_per_epoch
    return np.concatenate([batches[epoch * steps + step].rows for step in range(steps)])


@pytest.mark.parametrize("hard_negatives", [False, True], ids=["rows", "groups"])
def test_mined_epoch_holds_each_unit_once_beside_its_neighbours(make, hard_negatives, tmp_path):
    size = 2 if hard_negatives else 1
    options = {"groups": np.arange(ROWS) // size, "hard_negatives": hard_negatives}
    batches, plain = make(**options), make(**options)
    batches.miner = miner(batches, tmp_path)
    found = batches.miner(1)
    np.testing.assert_array_equal(epoch_rows(batches, 0), epoch_rows(plain, 0))
    assert sorted(epoch_rows(batches, 1)) == list(range(ROWS))
    units = epoch_rows(batches, 1)[::size] // size
    order = epoch_rows(plain, 1)[::size] // size
    np.testing.assert_array_equal(units, neighbour_order(order, found))
    assert set(found[units[0]]) == set(units[1:4].tolist())


def test_mined_batches_are_the_same_on_all_processes(make, tmp_path):
    whole, *parts = make(), *(make(rank=rank, world_size=2) for rank in range(2))
    for batches in (whole, *parts):
        batches.miner = miner(whole, tmp_path)
    for step in (0, 6, 9):
        joined = np.concatenate([part[step].rows for part in parts])
        np.testing.assert_array_equal(joined, whole[step].rows)


def test_alignment_with_mined_negatives_resumes_exactly(small_align, tmp_path, monkeypatch):
    """A run that stops in its third epoch, after two searches, and goes on."""
    keys = "train.epochs=3 train.hard_negatives={k: 2, every: 1}"
    config = small_align(f"features.dtype=float32 {keys}")
    write_features(config.data, config.feature_spec)
    folders = [Run.create(config, "x", tmp_path / name).folder for name in ("whole", "halves")]
    steps = train_aligner(config, folders[0])["steps"]

    def report_and_stop(self, *values, report=Reporter.step):
        report(self, *values)
        if self.progress.step == 2 * steps // 3 + 3:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", report_and_stop)
        with pytest.raises(InterruptedError):
            train_aligner(config, folders[1])
    train_aligner(config, folders[1])
    found = [[load_array(f / f"hard_negatives/epoch-{n}.npz") for n in (1, 2)] for f in folders]
    np.testing.assert_array_equal(*found)
    assert (found[0][0] != found[0][1]).any(), "the heads have changed"
    whole, halves = (load_file(newest_checkpoint(f / "checkpoints") / WEIGHTS) for f in folders)
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
