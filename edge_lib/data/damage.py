"""Damage to stored features, which teaches fusions to rely on the modality that is intact.

A damaged item gets noise, a lower energy and a run of dropped tokens, each of a random strength.
What becomes of an item depends on its own seed, never on the items beside it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from edge_lib.config import DamageConfig
from edge_lib.data.alignment_batches import AlignmentBatches, Batch
from edge_lib.data.encoder_output import EncoderOutput, Features

SAMPLE = 256  # valid items of a source, for the mean and the standard deviation of its features


class Damage:
    """Damage to the features of one source."""

    def __init__(self, source: Features, config: DamageConfig):
        self.config, valid = config, np.flatnonzero(source.valid)
        count = min(len(valid), SAMPLE)
        items = np.random.default_rng(0).choice(valid, count, replace=False) if count else [0]
        output = source.gather(items)
        # encoders that run online notice here which items are not valid
        kept = torch.from_numpy(source.valid[items]).to(output.pooled.device)
        self.pooled = _mean_and_deviation(output.pooled[kept])
        if output.tokens is not None:
            self.tokens = _mean_and_deviation(output.tokens[kept][output.mask[kept]])

    def __call__(self, output: EncoderOutput, seeds: Sequence[int]) -> EncoderOutput:
        """A random share of the items damaged. seeds: one for each item."""
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        draws = torch.stack([torch.rand(5, generator=g) for g in generators])
        damaged = (draws[:, 0] < self.config.share).to(output.pooled.device)
        noise, energy, dropped, place = draws[:, 1:].to(output.pooled.device).T * damaged
        factor = 1 - (1 - self.config.energy) * energy
        disturb = partial(
            _disturb, noise=self.config.noise * noise, factor=factor, generators=generators
        )
        pooled = disturb(output.pooled[:, None], damaged[:, None], *self.pooled)[:, 0]
        if output.tokens is None:
            return replace(output, pooled=pooled)
        tokens = disturb(output.tokens, output.mask & damaged[:, None], *self.tokens)
        mask = output.mask & ~_runs(output.mask, self.config.dropped * dropped, place)
        return replace(output, tokens=tokens, mask=mask, pooled=pooled)


class DamagedFeatures:
    """The features of another source, each item with one damage of its own."""

    def __init__(self, source: Features, config: DamageConfig, seed: int):
        self.source, self.damage, self.seed = source, Damage(source, config), seed

    @property
    def valid(self) -> np.ndarray:
        return self.source.valid

    def gather(self, items) -> EncoderOutput:
        entropies = ([self.seed, item] for item in np.asarray(items).tolist())
        seeds = [np.random.SeedSequence(e).generate_state(1)[0] for e in entropies]
        return self.damage(self.source.gather(items), seeds)


class DamagedBatches(Dataset):
    """Batches with damage to some modalities: in each step another one for each row, the same for
    any number of processes.
    """

    def __init__(self, batches: AlignmentBatches, damages: dict[str, Damage]):
        self.batches, self.damages = batches, damages
        self.steps_per_epoch, self.ids = batches.steps_per_epoch, batches.ids

    def __getitem__(self, step: int) -> Batch:
        batch, features = self.batches[step], {}
        count = len(batch.rows) * self.batches.world_size
        for number, (name, damage) in enumerate(self.damages.items()):
            entropy = [self.batches.seed, step, number, 4]
            seeds = np.random.SeedSequence(entropy).generate_state(count)
            features[name] = damage(batch.features[name], self.batches.share(seeds))
        return replace(batch, features=batch.features | features)


def _mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) and (D,) of vectors (N, D); zeros if there are none."""
    mean = x.mean(0).nan_to_num()
    return mean, (x - mean).square().mean(0).sqrt().nan_to_num()


def _disturb(
    x: Tensor,
    where: Tensor,
    mean: Tensor,
    std: Tensor,
    noise: Tensor,
    factor: Tensor,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """(B, T, D) whose vectors `where` (B, T) are nearer to the mean by factor (B,), with noise (B,)
    in units of their standard deviation. generators: on the CPU, whatever the device of x.
    """
    pairs = zip(where.sum(1).tolist(), generators, strict=True)
    drawn = torch.cat([torch.randn(n, x.shape[2], generator=g) for n, g in pairs]).to(x)
    item = where.nonzero()[:, 0]
    nearer = torch.lerp(mean, x[where], factor[item, None])
    return x.index_put((where,), nearer + noise[item, None] * std * drawn)


def _runs(mask: Tensor, share: Tensor, place: Tensor) -> Tensor:
    """(B, T) bool: a run of each item's valid tokens, a share (B,) of them, rounded down, at a
    place (B,) from 0, the first, to 1, the last one.
    """
    lengths = mask.sum(1)
    run = (share * lengths).long()
    starts = (place * (lengths - run + 1)).long()
    places = mask.cumsum(1) - 1
    return (places >= starts[:, None]) & (places < (starts + run)[:, None])
