"""Sinusoidal positions."""

import torch


def add_positions(tokens: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """(B, T, W) plus sinusoids of the place in the sequence (Vaswani et al. 2017, section 3.5).

    Attention does not see order, and a convolutional encoder's tokens do not say where they are.
    """
    count, width = tokens.shape[1:]
    kind = {"device": tokens.device, "dtype": torch.promote_types(tokens.dtype, torch.float32)}
    places = torch.arange(count, **kind)[:, None]
    rates = 10000 ** (-torch.arange(0, width, 2, **kind) / width)
    waves = torch.stack([(places * rates).sin(), (places * rates).cos()], dim=-1).flatten(1)
    return tokens + scale * waves[:, :width].to(tokens.dtype)
