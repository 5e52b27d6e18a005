"""Late interaction: its loss in chunks against all cosines at once; search with a shortlist against
all comparisons.

Items of the search are Gaussian topics with a vector for each token around them, half as far from
the topic as topics are from one another. A query repeats a third of an item's tokens, with noise.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.bench.matryoshka import similarity_products
from edge_lib.bench.tools import compare, peak_memory
from edge_lib.metrics.recall import overlap
from edge_lib.nn.maxsim import TokenVectors, maxsim_info_nce, score_info_nce
from edge_lib.nn.token_pooling import pool_tokens
from edge_lib.search import MaxSimIndex

BATCH, WORDS, PARTS, WIDTH = 256, 40, 36, 128  # of the loss
ROWS, TOKENS, DIM, QUERIES, TOP, SHORTLIST = 20_000, 36, 64, 32, 10, 300  # of the search


def tokens(items: int, longest: int, width: int, seed: int, shortest: int) -> TokenVectors:
    """Random vectors (items, longest, width) of lengths from `shortest` on, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(items, longest, width, generator=generator)
    lengths = torch.randint(shortest, longest + 1, (items, 1), generator=generator)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TokenVectors(vectors, torch.arange(longest) < lengths).to(device)


def _loss_inputs(batch: int) -> tuple[TokenVectors, TokenVectors]:
    """The tokens of texts and images."""
    return tokens(batch, WORDS, WIDTH, 0, 15), tokens(batch, PARTS, WIDTH, 1, PARTS)


def naive_scores(queries: TokenVectors, documents: TokenVectors) -> Tensor:
    """MaxSim with the cosines of all pairs of tokens in memory."""
    q, d = (F.normalize(x.vectors, dim=-1) for x in (queries, documents))
    cosines = torch.einsum("qld,npd->qnlp", q, d)
    highest = cosines.masked_fill(~documents.mask[None, :, None], -2).amax(3)
    return (highest * queries.mask[:, None]).sum(2) / queries.mask.sum(1, keepdim=True)


def loss_steps(batch: int) -> dict[str, Callable[[], list[Tensor]]]:
    """Loss and gradients, ours and with all cosines in memory."""
    queries, documents = _loss_inputs(batch)
    leaves = [x.vectors.requires_grad_() for x in (queries, documents)]
    scale = torch.tensor(1 / 0.07, device=leaves[0].device)
    present = torch.ones_like(queries.mask[:, 0])

    def naive() -> Tensor:
        return score_info_nce(scale * naive_scores(queries, documents), present)

    losses = {
        "ours": lambda: maxsim_info_nce(queries, documents, scale, [(WIDTH, 1.0)]),
        "ours_naive": naive,
    }
    return {name: partial(_value_and_gradients, loss, leaves) for name, loss in losses.items()}


def _value_and_gradients(loss: Callable[[], Tensor], leaves: list[Tensor]) -> list[Tensor]:
    value = loss()
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def _step(name: str, batch: int) -> Callable:
    loss_steps(8)[name]()  # libraries allocate their workspace
    return loss_steps(batch)[name]


def search_items(rows: int, queries: int) -> tuple[TokenVectors, TokenVectors]:
    """Items of `TOKENS` tokens, and queries of a third of them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    sample = partial(torch.randn, generator=generator, device=device)
    items = sample(rows, 1, DIM) + 0.5 * sample(rows, TOKENS, DIM)
    targets = torch.randint(rows, (queries,), generator=generator, device=device)
    words = items[targets, : TOKENS // 3] + 0.5 * sample(queries, TOKENS // 3, DIM)
    return (
        TokenVectors(x, torch.ones(x.shape[:2], dtype=torch.bool, device=device), rank)
        for rank, x in enumerate((items, words))
    )


def maxsim(batch: int = BATCH, items: int = ROWS, rounds: int = 5) -> dict[str, float]:
    """Time, memory and errors of the loss, `limit` being its matrix products alone; time and recall
    of the search; bytes of pooled items.
    """
    steps = loss_steps(batch)
    ours, naive = steps["ours"](), steps["ours_naive"]()
    errors = [float((x - y).norm() / y.norm()) for x, y in zip(ours, naive, strict=True)]
    names = "error.value", "error.queries", "error.documents"
    result = dict(zip(names, errors, strict=True))
    products = partial(similarity_products, *(x.vectors[x.mask] for x in _loss_inputs(batch)))
    result |= compare("seconds.loss", steps | {"limit": products}, rounds)
    memory = {name: peak_memory(_step, name, batch) for name in steps}
    result |= {f"memory_mb.loss.{name}": mb for name, mb in memory.items()}
    result["memory_mb.loss.ours_naive.ratio"] = memory["ours_naive"] / memory["ours"]
    return result | search_costs(items, rounds)


def search_costs(rows: int, rounds: int) -> dict[str, float]:
    """Two-stage search (ours) against exact search, and exact search in fewer tokens."""
    items, queries = search_items(rows, QUERIES)
    index, result = MaxSimIndex(items), {}
    for name, batch in (("one_query", queries[:1]), ("batch", queries)):
        searches = {
            "ours": partial(index.search_two_stage, batch, TOP, SHORTLIST),
            "ours_exact": partial(index.search, batch, TOP),
        }
        result |= compare(f"seconds.search.{name}", searches, rounds)
    exact = index.search(queries, TOP).rows.cpu()
    two_stage = index.search_two_stage(queries, TOP, SHORTLIST).rows.cpu()
    result["recall10.two_stage"] = overlap(two_stage, exact)
    small = MaxSimIndex(pool_tokens(items[:2000], 4))
    full = MaxSimIndex(items[:2000])
    hits = [x.search(queries, TOP).rows.cpu() for x in (small, full)]
    result["recall10.quarter_of_tokens"] = overlap(*hits)
    result["bytes.quarter_of_tokens"] = small.nbytes / full.nbytes
    return result
