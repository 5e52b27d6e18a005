"""Notebook 10: what a vector for each token costs, and how few of them are enough."""

from collections.abc import Sequence

import pandas as pd

from edge_lib.metrics.recall import overlap, retrieval_ranks
from edge_lib.nn.maxsim import TokenVectors
from edge_lib.nn.token_pooling import pool_tokens
from edge_lib.search import MaxSimIndex
from edge_lib.training.timing import seconds


def token_costs(
    queries: TokenVectors, items: TokenVectors, factors: Sequence[int], shortlist: int = 200
) -> pd.DataFrame:
    """Search in items of 1/factor of their tokens; query i is about item i.

    Columns: factor, tokens and bytes (an item), R@1, exact ms and two-stage ms (a query, of a
    batch), found (share of the ten nearest that the two-stage search finds).
    """
    return pd.DataFrame([_costs(queries, items, factor, shortlist) for factor in factors])


def _costs(queries: TokenVectors, items: TokenVectors, factor: int, shortlist: int) -> dict:
    small = pool_tokens(items, factor)
    index = MaxSimIndex(small)
    ranks = retrieval_ranks(queries, small, dims=[index.width])[0]
    searches = {
        "exact": lambda: index.search(queries, 10),
        "two-stage": lambda: index.search_two_stage(queries, 10, shortlist),
    }
    times = {f"{name} ms": 1e3 * seconds(f) / len(queries) for name, f in searches.items()}
    exact, two_stage = (search().rows.cpu().numpy() for search in searches.values())
    return {
        "factor": factor,
        "tokens": small.mask.sum(1).float().mean().item(),
        "bytes": index.nbytes / len(index),
        "R@1": (ranks < 1).mean(),
        **times,
        "found": overlap(two_stage, exact),
    }
