"""Optimizer and learning-rate schedule."""

import math
from collections.abc import Callable

import torch
from torch import nn

from edge_lib.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on norms, biases or logit_scale."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    steps = max(1, config.epochs * steps_per_epoch // config.accumulation)
    return min(steps, config.max_steps or steps)


def rate_factor(warmup: float, cooldown: float | None, total: int) -> Callable[[int], float]:
    """The learning rate's factor as a function of the step.

    It rises linearly to 1 over the share `warmup` of all steps, then follows a half cosine to 0.
    With `cooldown` it stays at 1 and falls linearly over that last share (arXiv 2405.18392).
    """
    ramp = max(1, round(warmup * total))  # steps

    def factor(step: int) -> float:
        if step < ramp:
            return (step + 1) / ramp
        if cooldown is None:
            return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))
        return min(1.0, (total - step) / max(1, cooldown * total))

    return factor
