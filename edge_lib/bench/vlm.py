"""Savings of caching an image, and of computing logits only at labelled positions.

1. Time to the first token of a second question about an image of 577 soft tokens: with the image's
   keys and values cached, against processing the image again.
2. Memory of the language model's head, forward and backward, for 577 soft tokens and an answer of
   64 tokens: logits of the answer's positions, against logits of all positions.

The language model has the shape of Qwen2.5-0.5B and random weights. `large_model` measures the
shape of Qwen2.5-7B on a GPU: answers, and training steps of its adapters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.bench.tools import compare, describe_error, peak_memory
from edge_lib.config import LoRAConfig, ModalityConfig, TrainConfig, VLMModelConfig
from edge_lib.data.chat import IGNORE
from edge_lib.data.chat_batches import ChatBatch
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.models import Aligner
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.models.vlm import VLM
from edge_lib.nn.decoders.language import supervised_loss
from edge_lib.training.device import local_device
from edge_lib.training.optimizer import make_optimizer
from edge_lib.training.progress import peak_memory_mb
from edge_lib.training.timing import seconds

PATCHES, WIDTH, ANSWER = 577, 1024, 64  # CLIP ViT-L/14 at 336 pixels
QUESTION = "Where is the red three, and what is right of it?"
CONVERSATIONS = [[{"role": "user", "content": f"<image>\n{QUESTION}"}]]


def vlm(rounds: int = 5) -> dict[str, float]:
    """Seconds to the first token and MB of the head."""
    return first_token(build("Qwen/Qwen2.5-0.5B-Instruct"), rounds) | head_memory()


def large_model(
    quantize: str | None, name: str = "Qwen/Qwen2.5-7B-Instruct", batch: int = 16
) -> dict[str, float | str]:
    """An answer and a training step of a model in bf16, or in 4 bits with `quantize="4bit"`. A step
    that runs out of memory leaves its error.
    """
    options = {"precision": "bf16", "quantize": quantize, "gradient_checkpointing": True}
    model = build(name, **options)
    result = answer_speed(model)
    try:
        return result | training_speed(model, batch)
    except RuntimeError as error:
        return result | {"train.error": describe_error(error)}


def build(name: str, **language) -> VLM:
    """A VLM with random weights, on an aligner that keeps every patch."""
    language_config = {"model": name, "weights": "random", "lora": LoRAConfig()} | language
    vision = ModalityConfig(encoder="-", pooler="tokens", width=WIDTH)
    aligner = Aligner({"vision": vision}, [WIDTH], {"vision": (WIDTH, WIDTH)})
    vlm_config = VLMModelConfig(language=language_config)
    sources = PrefixSources(aligner.to(local_device()))
    with local_device():  # a CPU would need minutes to draw the weights of 7B parameters
        model = VLM.new(sources, vlm_config, {"image": patches()})
    return model.to(local_device()).eval()


def patches(count: int = 1) -> EncoderOutput:
    """Random vision features of `count` images."""
    torch.manual_seed(0)
    tokens = torch.randn(count, PATCHES, WIDTH, device=local_device())
    return EncoderOutput(tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool), tokens.mean(1))


def first_token(model: VLM, rounds: int) -> dict[str, float]:
    """Seconds from a question about an image to the answer's first token."""
    image = patches()
    answer = partial(model.answer_batch, CONVERSATIONS, max_new_tokens=1)
    functions = {
        "ours": partial(answer, {}, model.cache_image(image)),
        "ours_without_cache": partial(answer, {"image": image}),
    }
    same = functions["ours"]() == functions["ours_without_cache"]()
    return compare("seconds.first_token", functions, rounds) | {"same_token": float(same)}


def head_memory() -> dict[str, float]:
    """Peak MB of the head and its loss, forward and backward."""
    ours, rival = (peak_memory(_head_work, name) for name in ("ours", "ours_all_positions"))
    (loss, gradient), (loss_all, gradient_all) = (
        _head_work(n)() for n in ("ours", "ours_all_positions")
    )
    return {
        "memory_mb.head.ours": ours,
        "memory_mb.head.ours_all_positions": rival,
        "memory_mb.head.ours_all_positions.ratio": rival / ours,
        "head.loss_difference": abs(loss - loss_all),
        "head.gradient_difference": (gradient - gradient_all).abs().max().item(),
    }


def _head_work(name: str) -> Callable[[], tuple[float, Tensor]]:
    """A function that returns the loss and gradient of the states; head of Qwen2.5-0.5B's size."""
    torch.manual_seed(0)
    device = local_device()
    head = torch.nn.Linear(896, 151936, bias=False, device=device).requires_grad_(False)
    language = _HeadOnly(head)
    states = torch.randn(1, PATCHES + ANSWER, 896, device=device, requires_grad=True)
    labels = torch.full((1, PATCHES + ANSWER), IGNORE, device=device)
    labels[:, -ANSWER:] = torch.randint(0, 151936, (1, ANSWER), device=device)

    def loss_and_gradient() -> tuple[float, Tensor]:
        if name == "ours":
            loss = supervised_loss(language, labels, states=states)
        else:
            logits = head(states[:, :-1]).float().flatten(0, 1)
            loss = F.cross_entropy(
                logits, labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
            )
        (gradient,) = torch.autograd.grad(loss, states)
        return loss.item(), gradient

    return loss_and_gradient


@dataclass
class _HeadOnly:
    """Stub of a language model whose last hidden states are given."""

    head: torch.nn.Linear

    def __call__(self, states: Tensor, logits_to_keep: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(states[logits_to_keep]))


def answer_speed(model: VLM) -> dict[str, float]:
    """One answer of 64 tokens about an image of 577 soft tokens, batch of 1."""
    length = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER}
    answer = partial(model.answer_batch, CONVERSATIONS, {"image": patches()}, **length)
    speed = _speed(answer, ANSWER)
    return {f"answer64.{name}": value for name, value in speed.items()}


def training_speed(model: VLM, batch: int) -> dict[str, float]:
    """A step of projector and adapters on conversations of one image and an answer of 64 tokens."""
    conversations = training_batch(model, batch)
    speed = _speed(training_step(model, conversations), conversations.input_ids.numel())
    return {f"train.{name}": value for name, value in speed.items()}


def training_step(model: VLM, conversations: ChatBatch) -> Callable[[], float]:
    """A function that trains projector and adapters for a step, and returns the loss."""
    model.train()
    model.train_adapters(True)
    optimizer = make_optimizer(model, TrainConfig())

    def step() -> float:
        with torch.autocast(local_device().type, torch.bfloat16):
            loss = model(conversations)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def training_batch(model: VLM, batch: int) -> ChatBatch:
    prompt = torch.tensor(model.chat.prompt(CONVERSATIONS[0])).expand(batch, -1)
    answer = torch.randint(0, 256, (batch, ANSWER))
    labels = torch.cat([torch.full_like(prompt, IGNORE), answer], 1)
    ids = torch.cat([prompt, answer], 1)
    mask = torch.ones_like(ids, dtype=torch.bool)
    images = {"image": patches(batch)}
    return ChatBatch(ids, mask, labels, images, batch * ANSWER).to(local_device())


def _speed(function: Callable, tokens: int) -> dict[str, float]:
    """The better of two calls after a first one, and their peak memory on a GPU."""
    function()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    spent = min(seconds(function) for _ in range(2))
    return {
        "seconds": spent,
        "tokens_per_second": tokens / spent,
        "memory_mb": peak_memory_mb(),
    }
