"""Damage to stored features, which teaches fusions to rely on the modality that is intact.

A damaged item gets noise, a lower energy and a run of dropped tokens, each of a random strength.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edge_lib.config import DamageConfig
from edge_lib.data.encoder_output import EncoderOutput, Features


class DamagedFeatures:
    """The features of another source, of which each batch has its own damage, the same whenever
    it is gathered.
    """

    def __init__(self, source: Features, config: DamageConfig, seed: int):
        self.source, self.config, self.seed = source, config, seed

    @property
    def valid(self) -> np.ndarray:
        return self.source.valid

    def gather(self, items) -> EncoderOutput:
        seed = np.random.SeedSequence([self.seed, *np.asarray(items).tolist()])
        generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
        return damage(self.source.gather(items), self.config, generator)


def damage(
    output: EncoderOutput, config: DamageConfig, generator: torch.Generator
) -> EncoderOutput:
    """A random share of the items damaged. generator: on the CPU, whatever the output's device."""
    draw = partial(torch.rand, generator=generator)
    damaged = draw(len(output.pooled)) < config.share
    noise, energy, dropped, place = (draw(4, len(damaged)) * damaged).to(output.pooled.device)
    noise, factor = config.noise * noise, 1 - (1 - config.energy) * energy
    disturb = partial(_disturb, noise=noise, factor=factor, generator=generator)
    pooled = disturb(output.pooled[:, None], output.pooled)[:, 0]
    if output.tokens is None:
        return replace(output, pooled=pooled)
    tokens = disturb(output.tokens, output.tokens[output.mask])
    mask = output.mask & ~_runs(output.mask, config.dropped * dropped, place)
    return replace(output, tokens=tokens, mask=mask, pooled=pooled)


def _disturb(
    x: Tensor, valid: Tensor, noise: Tensor, factor: Tensor, generator: torch.Generator
) -> Tensor:
    """(B, T, D) nearer to the mean of the batch's `valid` vectors (N, D), with noise (B,) in units
    of their standard deviation.
    """
    mean = valid.mean(0).nan_to_num()  # NaN where no item is valid
    std = (valid - mean).square().mean(0).sqrt().nan_to_num()
    nearer = torch.lerp(mean.expand_as(x), x, factor[:, None, None])
    drawn = torch.randn(x.shape, generator=generator).to(x)
    return nearer + noise[:, None, None] * std * drawn


def _runs(mask: Tensor, share: Tensor, place: Tensor) -> Tensor:
    """(B, T) bool: a run of each item's valid tokens, a share (B,) of them, rounded down, at a
    place (B,) from 0, the first, to 1, the last one.
    """
    lengths = mask.sum(1)
    run = (share * lengths).long()
    starts = (place * (lengths - run + 1)).long()
    places = mask.cumsum(1) - 1
    return (places >= starts[:, None]) & (places < (starts + run)[:, None])
