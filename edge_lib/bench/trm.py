"""Greedy generation of 64 tokens with a cache per recursion step, against generation without.

The recursive decoder (2 layers, 4 inner steps, width 256) continues a prefix of 64 vectors and a
question of 16 tokens. Without the cache, every new token processes the whole answer so far at every
recursion step. Both give the same tokens. `at_widths` adds a training step.
"""

from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.bench.tools import compare
from edge_lib.config import TrainConfig
from edge_lib.nn.decoders.trm import RecursiveDecoder
from edge_lib.training.device import local_device
from edge_lib.training.optimizer import make_optimizer
from edge_lib.training.timing import seconds

PREFIX, QUESTION, NEW, VOCABULARY = 64, 16, 64, 512


def trm(batch: int = 8, width: int = 256, rounds: int = 5) -> dict[str, float]:
    """Seconds of generation with and without the cache, and whether the tokens are the same."""
    decoder, (prefix, mask, question) = _decoder(width).eval(), _inputs(batch, width)
    cached = partial(decoder.generate, prefix, mask, question, NEW)
    functions = {"ours": cached, "ours_without_cache": partial(cached, use_cache=False)}
    tokens, rival_tokens = (function() for function in functions.values())
    result = compare("seconds.generate64", functions, rounds)
    same = float(torch.equal(tokens, rival_tokens))
    return result | {"tokens": tokens.shape[1], "same_tokens": same}


def at_widths(widths: tuple[int, ...], batch: int = 64) -> dict[str, float]:
    """Generation and training at other widths."""
    return {
        f"w{width}.{name}": value
        for width in widths
        for measure in (trm, training)
        for name, value in measure(batch, width).items()
    }


def training(batch: int, width: int) -> dict[str, float]:
    """Seconds of a training step in bf16 on answers of 64 tokens."""
    decoder, inputs = _decoder(width), _inputs(batch, width)
    answer = torch.randint(4, VOCABULARY, (batch, NEW), device=local_device())
    optimizer = make_optimizer(decoder, TrainConfig())

    def step() -> None:
        with torch.autocast(answer.device.type, torch.bfloat16):
            logits = decoder(*inputs, answer)
        F.cross_entropy(logits.float().flatten(0, 1), answer.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    spent = median(seconds(step) for _ in range(5))
    return {"seconds.step": spent, "answers_per_second": batch / spent}


def _decoder(width: int) -> RecursiveDecoder:
    torch.manual_seed(0)
    decoder = RecursiveDecoder(width, VOCABULARY, dim=width, num_layers=2, num_heads=width // 64)
    return decoder.to(local_device())


def _inputs(batch: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prefix (B, 64, W), its mask (B, 64), question (B, 16)."""
    device = local_device()
    prefix = torch.randn(batch, PREFIX, width, device=device)
    mask = torch.ones(batch, PREFIX, dtype=torch.bool, device=device)
    return prefix, mask, torch.randint(4, VOCABULARY, (batch, QUESTION), device=device)
