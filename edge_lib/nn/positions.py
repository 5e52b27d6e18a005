"""Sinusoidal positions."""

import torch


def add_positions(
    tokens: torch.Tensor, scale: float = 1.0, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, T, W) plus sinusoids of the position in the sequence (Vaswani et al. 2017, section 3.5).

    Attention ignores order, and the tokens of a convolutional encoder do not hold their position.
    positions (T,), by default 0, 1, ...; a fraction lies between two tokens.
    """
    count, width = tokens.shape[1:]
    options = {"device": tokens.device, "dtype": torch.promote_types(tokens.dtype, torch.float32)}
    positions = torch.arange(count, **options) if positions is None else positions.to(**options)
    rates = 10000 ** (-torch.arange(0, width, 2, **options) / width)
    angles = positions[:, None] * rates
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return tokens + scale * waves[:, :width].to(tokens.dtype)
