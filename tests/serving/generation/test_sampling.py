"""The choice of tokens: greedy, or drawn by settings and noise of each row."""

import math
from collections import Counter

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from edge_lib.serving.generation.request import Sampling
from edge_lib.serving.generation.sampling import RowSampler, choose_tokens

SIZE = 12


def logits(rows=1, seed=0, size=SIZE):
    return 2 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def draw(scores, count, **sampling):
    """`count` tokens drawn from scores (V,) by one row."""
    row = RowSampler(Sampling(**{"temperature": 1.0, "seed": 0} | sampling))
    return [choose_tokens(scores[None], [row])[0] for _ in range(count)]


def draw_many(scores, rows, **sampling):
    """A token drawn from scores (V,) by each of so many rows with other seeds."""
    settings = (Sampling(**{"temperature": 1.0, "seed": n} | sampling) for n in range(rows))
    return Counter(choose_tokens(scores.expand(rows, -1), [*map(RowSampler, settings)]))


def test_temperature_zero_takes_the_likeliest_token():
    scores = logits(3)
    rows = [RowSampler(Sampling(top_k=5, top_p=0.5, seed=n)) for n in range(3)]
    assert choose_tokens(scores, rows) == scores.argmax(-1).tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 3.0, "top_k": 4},
        {"top_p": 0.8},
        {"top_p": 0.3, "temperature": 2.0},
        {"top_k": 6, "top_p": 0.7},
        {"top_k": 100},
    ],
    ids=str,
)
def test_tokens_are_drawn_from_the_distribution_of_transformers(settings):
    scores, count = logits()[0], 4000
    settings = {"temperature": 1.0} | settings
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings["temperature"])])
    if "top_k" in settings:
        warpers.append(TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        warpers.append(TopPLogitsWarper(settings["top_p"]))
    expected = warpers(None, scores[None].clone())[0].softmax(-1)
    drawn = draw_many(scores, count, **settings)
    assert all(expected[token] > 0 for token in drawn)
    for token, probability in enumerate(expected.tolist()):
        deviation = math.sqrt(count * probability * (1 - probability))
        assert abs(drawn[token] - count * probability) <= 5 * deviation


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 1}, {"top_p": 1e-9}, {"top_p": 0.0}, {"temperature": 1e-40}, {"temperature": 1e-6}],
    ids=str,
)
def test_narrow_settings_leave_the_likeliest_token(settings):
    scores = logits()[0]
    assert set(draw(scores, 50, **settings)) == {int(scores.argmax())}


def test_high_temperature_draws_all_tokens_alike():
    drawn = draw_many(logits()[0], 2400, temperature=1e9)
    assert all(140 < drawn[token] < 260 for token in range(SIZE))


def test_seed_decides_what_is_drawn():
    scores = logits(size=300)[0]
    assert draw(scores, 20, seed=7) == draw(scores, 20, seed=7)
    assert draw(scores, 20, seed=7) != draw(scores, 20, seed=8)
    assert draw(scores, 20, seed=None) != draw(scores, 20, seed=None)
    for seed in (-1, 2**64 - 1, 2**70, 0):
        assert draw(scores, 3, seed=seed) == draw(scores, 3, seed=seed)


def test_row_draws_the_same_alone_and_among_others():
    scores = logits(4, size=300)
    settings = [
        Sampling(temperature=1.0, seed=1),
        Sampling(),
        Sampling(temperature=2.0, top_k=9, seed=2),
        Sampling(temperature=0.7, top_p=0.9, seed=3),
    ]
    alone = [
        [choose_tokens(scores[n : n + 1], [row])[0] for _ in range(8)]
        for n, row in enumerate(map(RowSampler, settings))
    ]
    rows = [RowSampler(sampling) for sampling in settings]
    together = [choose_tokens(scores, rows) for _ in range(8)]
    assert [list(tokens) for tokens in zip(*together, strict=True)] == alone


def test_sixteen_bit_logits_are_drawn_in_32_bits():
    """Scaled in 16 bits, neighbouring tokens would become equal."""
    scores = torch.tensor([0.0, 1.0, 2.0]).bfloat16()
    assert draw(scores, 20, temperature=1.5) == draw(scores.float(), 20, temperature=1.5)


def test_tokens_of_probability_zero_are_never_drawn():
    scores = torch.full((SIZE,), -math.inf)
    scores[[2, 5]] = 0.0
    assert set(draw(scores, 100, temperature=5.0)) == {2, 5}
    assert set(draw(scores, 100, top_k=7, top_p=0.99)) == {2, 5}
