"""Greedy generation of 64 tokens with a cache per recursion step, against generation without.

The recursive decoder (2 layers, 4 inner steps, width 256) continues a prefix of 64 vectors and a
question of 16 tokens. Without the cache, every new token processes the whole answer so far at every
recursion step. Both give the same tokens.
"""

from functools import partial

import torch

from edge_lib.bench.tools import compare
from edge_lib.nn.decoders.trm import RecursiveDecoder
from edge_lib.training.device import local_device

PREFIX, QUESTION, NEW, VOCABULARY = 64, 16, 64, 512


def trm(batch: int = 8) -> dict[str, float]:
    """Seconds of generation with and without the cache, and whether the tokens are the same."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    device = local_device()
    decoder = RecursiveDecoder(256, VOCABULARY, dim=256, num_layers=2, num_heads=4)
    decoder = decoder.to(device).eval()
    prefix = torch.randn(batch, PREFIX, 256, device=device)
    mask = torch.ones(batch, PREFIX, dtype=torch.bool, device=device)
    question = torch.randint(4, VOCABULARY, (batch, QUESTION), device=device)
    cached = partial(decoder.generate, prefix, mask, question, NEW)
    functions = {"ours": cached, "without_cache": partial(cached, use_cache=False)}
    tokens, rival_tokens = (function() for function in functions.values())
    result = compare("seconds.generate64", functions, rounds=5)
    same = float(torch.equal(tokens, rival_tokens))
    return result | {"tokens": tokens.shape[1], "same_tokens": same}
