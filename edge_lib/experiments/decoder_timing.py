"""Time of a training step of decoders, measured on one thread."""

from collections.abc import Callable, Sequence
from statistics import median

import torch
import torch.nn.functional as F

from edge_lib.config import DecoderConfig
from edge_lib.nn.decoders import build_decoder
from edge_lib.training.device import local_device
from edge_lib.training.timing import seconds

IMAGES, VECTORS, WIDTH = 32, 9, 256
QUESTIONS, QUESTION, ANSWER, VOCABULARY = 64, 14, 3, 512
ROUNDS = 7


def step_seconds(decoders: Sequence[tuple[str, DecoderConfig]]) -> list[float]:
    """Median seconds of a training step, forward and backward, of each (decoder name, config).

    Measured in turn, on one thread, so that a busy machine slows all alike. A step has 64 questions
    of 14 tokens about 32 images of 9 vectors, with answers of 3 tokens.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = [_training_step(*decoder) for decoder in decoders]
    for step in steps:
        step()
    times = [[seconds(step) for step in steps] for _ in range(ROUNDS)]
    torch.set_num_threads(threads)
    return [median(column) for column in zip(*times, strict=True)]


def _training_step(name: str, config: DecoderConfig) -> Callable[[], None]:
    torch.manual_seed(0)
    device = local_device()
    decoder = build_decoder(name, config, WIDTH, VOCABULARY).to(device)
    prefix = torch.randn(IMAGES, VECTORS, WIDTH, device=device)
    mask = torch.ones(IMAGES, VECTORS, dtype=torch.bool, device=device)
    question = torch.randint(4, VOCABULARY, (QUESTIONS, QUESTION), device=device)
    answer = torch.randint(4, VOCABULARY, (QUESTIONS, ANSWER), device=device)

    def step() -> None:
        context = decoder.read_context(prefix, mask, question)
        states = decoder.supervised(decoder.states_after(context, answer))
        losses = [F.cross_entropy(decoder.head(s).flatten(0, 1), answer.flatten()) for s in states]
        torch.stack(losses).mean().backward()

    return step
