"""Search among 262,144 embeddings of 1024 dims: small sizes against the full one, and coarse to
fine against faiss's exact search (`IndexFlatIP`).

The embeddings are Gaussian, the variance of column j falls as 1/j (a Matryoshka space puts most of
what it knows in front); a query is a row plus noise of the same shape, at a cosine of about 0.9.
"""

from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.bench.tools import compare
from edge_lib.search import MatryoshkaIndex
from edge_lib.training.timing import seconds

ROWS, WIDTH, SMALL, QUERIES, TOP, SHORTLIST = 262_144, 1024, 64, 64, 10, 300
NOISE = 0.484  # of a row's norm


def embeddings(rows: int, queries: int, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Rows (N, width) and queries (Q, width), normalised."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    spread = torch.arange(1, width + 1, device=device).rsqrt()

    def draw(count: int) -> Tensor:
        return torch.randn(count, width, generator=generator, device=device) * spread

    x = draw(rows)
    chosen = torch.randint(rows, (queries,), generator=generator, device=device)
    return F.normalize(x), F.normalize(x[chosen] + NOISE * draw(queries))


def faiss_searches(rows: Tensor) -> dict[str, Callable[[Tensor], np.ndarray]]:
    """faiss's exact inner product, queries (Q, D) -> rows (Q, TOP): as it comes, and without the
    BLAS that its wheel brings, which is slow for a batch.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows.cpu().numpy())

    def search(queries: Tensor, blas_from: int) -> np.ndarray:
        faiss.cvar.distance_compute_blas_threshold = blas_from
        return index.search(queries.cpu().numpy(), TOP)[1]

    usual = faiss.cvar.distance_compute_blas_threshold
    return {
        "faiss": partial(search, blas_from=usual),
        "faiss_no_blas": partial(search, blas_from=2**30),
    }


def overlap(found: np.ndarray | Tensor, exact: np.ndarray | Tensor) -> float:
    """recall@TOP of rows (Q, TOP) against the exact ones."""
    pairs = zip(np.asarray(found), np.asarray(exact), strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in pairs]))


def retrieval() -> dict[str, float]:
    """Seconds of exact and coarse-to-fine search, one query and a batch; recall; memory."""
    torch.set_num_threads(2)
    rows, queries = embeddings(ROWS, QUERIES)
    one = queries[:1]
    index = MatryoshkaIndex(rows, [SMALL, WIDTH])
    theirs = faiss_searches(rows)
    fine = [SMALL, WIDTH]
    result = {}
    for name, asked in (("one_query", one), ("batch", queries)):
        small_and_full = {
            "ours": lambda asked=asked: index.search(asked, TOP, SMALL),
            "full_size": lambda asked=asked: index.search(asked, TOP),
        }
        result |= compare(f"seconds.dim{SMALL}.{name}", small_and_full, rounds=5)
        against_faiss = {
            "ours": lambda asked=asked: index.search_coarse_to_fine(asked, TOP, fine, SHORTLIST),
            **{rival: partial(their_search, asked) for rival, their_search in theirs.items()},
        }
        result |= compare(f"seconds.coarse_to_fine.{name}", against_faiss, rounds=5)
    exact = theirs["faiss"](queries)
    found = index.search_coarse_to_fine(queries, TOP, fine, SHORTLIST)
    result["recall10.exact"] = overlap(index.search(queries, TOP).rows.cpu(), exact)
    result["recall10.coarse_to_fine"] = overlap(found.rows.cpu(), exact)
    small = MatryoshkaIndex(rows, [SMALL, WIDTH], "int8")
    result["recall10.int8"] = overlap(small.search(queries, TOP).rows.cpu(), exact)
    result["bytes.int8_of_fp32"] = small.nbytes / index.nbytes
    result["seconds.int8.batch"] = compare("s", {"ours": lambda: small.search(queries, TOP)}, 3)[
        "s.ours"
    ]
    return result


def search_costs(
    trained: Tensor, dims: list[int], rows: int = 131_072, queries: int = QUERIES
) -> pd.DataFrame:
    """What an index of `rows` embeddings like the `trained` (N, D) costs at each size: a line for
    each dim, with MB in float32 and int8 and milliseconds of an exact search by `queries`.
    """
    chosen = torch.randint(len(trained), (rows,), generator=torch.Generator().manual_seed(0))
    crowd = F.normalize(trained, dim=1)[chosen]
    crowd += 0.1 * crowd.std(0) * torch.randn_like(crowd)
    lines = []
    for dim in sorted(dims):
        index = MatryoshkaIndex(crowd[:, :dim], [dim])
        small = MatryoshkaIndex(crowd[:, :dim], [dim], "int8")
        spent = median(seconds(lambda i=index: i.search(crowd[:queries], TOP)) for _ in range(5))
        lines.append((dim, index.nbytes / 2**20, small.nbytes / 2**20, 1e3 * spent))
    return pd.DataFrame(lines, columns=["dim", "MB", "MB in int8", "ms"])
