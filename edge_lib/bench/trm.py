"""Generation with a cache per recursion step against generation without: 64 tokens, greedy.

The decoder is the recursive one (2 layers, 4 steps, width 256) after a prefix of 64 vectors and a
question of 16 tokens; the rival reads the whole answer so far, at every step of the recursion,
again for each new token. Both give the same tokens.
"""

from collections.abc import Callable, Sequence
from statistics import median

import torch
import torch.nn.functional as F

from edge_lib.bench.tools import compare
from edge_lib.config import DecoderConfig
from edge_lib.nn.decoders import DECODERS
from edge_lib.nn.decoders.trm import RecursiveDecoder
from edge_lib.training.device import local_device
from edge_lib.training.timing import seconds

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


def step_seconds(decoders: Sequence[tuple[str, DecoderConfig]], rounds: int = 7) -> list[float]:
    """Median seconds of a training step, forward and backward, of each (arm, config), untrained;
    on one thread, in turn, so that a busy machine slows all alike.

    64 questions of 14 tokens about 32 images of 9 vectors, answered in 3 tokens.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = [_training_step(*decoder) for decoder in decoders]
    for step in steps:
        step()
    times = [[seconds(step) for step in steps] for _ in range(rounds)]
    torch.set_num_threads(threads)
    return [median(each) for each in zip(*times, strict=True)]


def _training_step(arm: str, config: DecoderConfig) -> Callable[[], None]:
    torch.manual_seed(0)
    device = local_device()
    decoder = DECODERS[arm](config, 256, VOCABULARY).to(device)
    prefix = torch.randn(32, 9, 256, device=device)
    mask = torch.ones(32, 9, dtype=torch.bool, device=device)
    question = torch.randint(4, VOCABULARY, (64, 14), device=device)
    answer = torch.randint(4, VOCABULARY, (64, 3), device=device)

    def step() -> None:
        context = decoder.read_context(prefix, mask, question)
        states = decoder.supervised(decoder.states_after(context, answer))
        losses = [F.cross_entropy(decoder.head(s).flatten(0, 1), answer.flatten()) for s in states]
        torch.stack(losses).mean().backward()

    return step
