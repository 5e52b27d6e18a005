"""The moving average of weights."""

import pytest
import torch
from torch import nn

from edge_lib.training.ema import MovingAverage


def test_average_equals_hand_computation():
    model, expected = nn.Linear(1, 1, bias=False), 2.0
    nn.init.constant_(model.weight, expected)
    average = MovingAverage(model, 0.6)
    for step, value in enumerate([1.0, 5.0, -3.0, 4.0, 8.0], 1):
        nn.init.constant_(model.weight, value)
        average.update()
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 8.0


def test_average_of_16_bit_weights_keeps_small_steps():
    """Each is below half of what bf16 can tell from 1; an evaluation between them loses none."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    average = MovingAverage(model, 0.999)
    average.updates = 10**6
    nn.init.constant_(model.weight, 2)
    for _ in range(100):
        average.update()
        with average.applied():
            pass
    assert average.average[0].item() == pytest.approx(2 - 0.999**100, abs=1e-5)
    assert model.weight.item() == 2


def test_average_skips_frozen_weights_and_no_decay():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert len(MovingAverage(model, 0.9).average) == 1
    none = MovingAverage(model, None)
    none.update()
    assert none.average == []


def test_average_restores_its_state():
    model = nn.Linear(2, 2)
    first = MovingAverage(model, 0.9)
    torch.nn.init.zeros_(model.weight)
    first.update()
    second = MovingAverage(model, 0.9)
    second.load_state_dict(first.state_dict())
    assert second.updates == 1
    assert all(torch.equal(a, b) for a, b in zip(first.average, second.average, strict=True))
