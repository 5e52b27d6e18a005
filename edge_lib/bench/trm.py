"""Generation with a cache per recursion step against generation without: 64 tokens, greedy.

The decoder is the recursive one (2 layers, 4 steps, width 256) after a prefix of 64 vectors and a
question of 16 tokens; the rival reads the whole answer so far, at every step of the recursion,
again for each new token. Both give the same tokens.
"""

import torch

from edge_lib.bench.tools import compare
from edge_lib.config import DecoderConfig
from edge_lib.decoders import RecursiveDecoder
from edge_lib.launch import local_device

PREFIX, QUESTION, NEW, VOCABULARY = 64, 16, 64, 512


def trm(batch: int = 8) -> dict[str, float]:
    """Seconds of generation with and without the cache; whether their tokens are the same."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    device = local_device()
    config = DecoderConfig(width=256, layers=2, heads=4, inner_steps=4)
    decoder = RecursiveDecoder(config, 256, VOCABULARY).to(device).eval()
    prefix = torch.randn(batch, PREFIX, 256, device=device)
    mask = torch.ones(batch, PREFIX, dtype=torch.bool, device=device)
    question = torch.randint(4, VOCABULARY, (batch, QUESTION), device=device)
    asked = prefix, mask, question, NEW
    found = {
        "ours": lambda: decoder.generate(*asked),
        "without_cache": lambda: decoder.generate(*asked, use_cache=False),
    }
    ours, theirs = found["ours"](), found["without_cache"]()
    result = compare("seconds.generate64", found, rounds=5)
    return result | {"tokens": ours.shape[1], "same_tokens": float(torch.equal(ours, theirs))}
