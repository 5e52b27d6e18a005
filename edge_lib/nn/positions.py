"""Sinusoidal positions."""

import torch


def add_positions(tokens: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """(B, T, W) plus sinusoids of the position in the sequence (Vaswani et al. 2017, section 3.5).

    Attention ignores order, and the tokens of a convolutional encoder do not hold their position.
    """
    count, width = tokens.shape[1:]
    options = {"device": tokens.device, "dtype": torch.promote_types(tokens.dtype, torch.float32)}
    positions = torch.arange(count, **options)[:, None]
    rates = 10000 ** (-torch.arange(0, width, 2, **options) / width)
    waves = torch.stack([(positions * rates).sin(), (positions * rates).cos()], dim=-1).flatten(1)
    return tokens + scale * waves[:, :width].to(tokens.dtype)
