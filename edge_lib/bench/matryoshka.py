"""The one-pass Matryoshka loss against a loop over dims: time, memory and numerical error."""

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_lib.bench.tools import compare, describe_error, memory_growth, peak_memory
from edge_lib.nn.losses import matryoshka_info_nce

DIMS = [4096, 2048, 1024, 512, 256, 128]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# names of the losses that are measured on a GPU, and those of `matryoshka_losses`
ON_GPU = {"ours": "ours_chunked", "ours_whole": "ours", "open_clip": "open_clip"}


class _Embeddings(nn.Module):
    """Sentence encoder stub that returns its inputs, which are embeddings already."""

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": inputs["x"]}

    def get_embedding_dimension(self) -> None:
        return None


def sentence_transformers_loss(a: Tensor, b: Tensor, scale: Tensor, dims: list[int]) -> Tensor:
    """sentence-transformers' MatryoshkaLoss around its symmetric in-batch loss."""
    from sentence_transformers.sentence_transformer import losses

    model = _Embeddings()
    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    single = losses.MultipleNegativesRankingLoss(model, scale, **both)
    return losses.MatryoshkaLoss(model, single, dims)([{"x": a}, {"x": b}], None)


def open_clip_loss(a: Tensor, b: Tensor, scale: Tensor, dims: list[int]) -> Tensor:
    """open_clip's ClipLoss (src/open_clip/loss.py), once for each dim: normalised features, and
    logits and cross-entropy for each direction.
    """
    labels = torch.arange(len(a), device=a.device)
    loss = 0
    for d in dims:
        x, y = F.normalize(a[:, :d], dim=-1), F.normalize(b[:, :d], dim=-1)
        per_image, per_text = scale * x @ y.T, scale * y @ x.T
        loss += (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2
    return loss


def matryoshka_losses(
    a: Tensor, b: Tensor, scale: Tensor, dims: list[int], chunk: int
) -> dict[str, Callable[[], Tensor]]:
    """Implementations of the same loss. a, b (B, D), scale () -> loss ()."""
    return {
        "ours": lambda: matryoshka_info_nce(a, b, scale, dims),
        "ours_chunked": lambda: matryoshka_info_nce(a, b, scale, dims, chunk=chunk),
        "sentence_transformers": lambda: sentence_transformers_loss(a, b, scale, dims),
        "open_clip": lambda: open_clip_loss(a, b, scale, dims),
    }


def _inputs(batch: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Weakly aligned features (B, max(DIMS)) and CLIP's initial scale, all requiring gradients."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    a, noise = torch.randn(2, batch, DIMS[0], generator=generator, device=device)
    scale = torch.tensor(1 / 0.07, device=device)
    return [x.requires_grad_() for x in (a.to(dtype), (0.1 * a + noise).to(dtype), scale)]


def _step(name: str, batch: int, chunk: int, dtype: torch.dtype = torch.float32) -> Callable:
    """A function that runs forward and backward of one of the losses."""
    small = _inputs(32, dtype)  # libraries allocate their workspace now, before the measurement
    torch.autograd.grad(matryoshka_losses(*small, DIMS, chunk)[name](), small)
    inputs = _inputs(batch, dtype)
    loss = matryoshka_losses(*inputs, DIMS, chunk)[name]
    return lambda: torch.autograd.grad(loss(), inputs)


def matryoshka_errors(batch: int = 512) -> dict[str, float]:
    """Relative errors (by norm) of value and gradients against a float64 loop."""
    inputs = _inputs(batch)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    loss = matryoshka_info_nce(*inputs, DIMS)
    exact = open_clip_loss(*exact_inputs, DIMS)
    pairs = zip(
        [loss, *torch.autograd.grad(loss, inputs)],
        [exact, *torch.autograd.grad(exact, exact_inputs)],
        strict=True,
    )
    errors = [float((x - y).detach().norm() / y.detach().norm()) for x, y in pairs]
    return dict(zip(("error.value", "error.a", "error.b", "error.scale"), errors, strict=True))


def matryoshka(rounds: int = 5) -> dict[str, float | str]:
    """Forward and backward of Matryoshka InfoNCE at six dims up to 4096. `limit` is the three
    products of the largest dim alone.
    """
    if torch.cuda.is_available():
        return matryoshka_errors() | large_batches()
    names = list(matryoshka_losses(*_inputs(1), DIMS, chunk=1))
    steps = {name: _step(name, 2048, 512) for name in names}
    memory = {name: peak_memory(_step, name, 2048, 512) for name in names}
    products = partial(similarity_products, *_inputs(2048)[:2])
    times = compare("seconds", steps | {"limit": products}, rounds)
    return matryoshka_errors() | times | _memory_ratios("memory_mb", memory)


@torch.no_grad()
def similarity_products(a: Tensor, b: Tensor) -> None:
    """The similarities of a (N, D) and b (M, D), and two products as large for the gradients."""
    similarity = a @ b.T
    similarity @ b, similarity.T @ a


def large_batches(batches: tuple[int, ...] = (16_384, 32_768), chunk: int = 1024) -> dict:
    """Seconds and peak MB (without inputs) on a GPU, for fp32 and bf16 inputs. `ours` is in tiles
    of `chunk` rows, `ours_whole` in one; a loss that fails has an `error` instead.
    """
    result = {}
    for batch, (name, dtype) in product(batches, DTYPES.items()):
        steps, memory = {}, {}
        for loss, function in ON_GPU.items():
            try:
                step = _step(function, batch, chunk, dtype)
                memory[loss] = memory_growth(step)
                steps[loss] = step
            except RuntimeError as error:  # no memory, or too large for a kernel
                result[f"seconds.b{batch}.{name}.{loss}.error"] = describe_error(error)
        if "ours" not in steps:
            continue
        result |= compare(f"seconds.b{batch}.{name}", steps, rounds=3)
        result |= _memory_ratios(f"memory_mb.b{batch}.{name}", memory)
    return result


def _memory_ratios(metric: str, memory: dict[str, float]) -> dict[str, float]:
    rivals = {f"{metric}.{name}.ratio": mb / memory["ours"] for name, mb in memory.items()}
    rivals.pop(f"{metric}.ours.ratio")
    return {f"{metric}.{name}": mb for name, mb in memory.items()} | rivals
