"""Search in 262,144 embeddings of 1024 dims: a small dim against the full one, and coarse to fine
against faiss's exact search (`IndexFlatIP`).

Embeddings are Gaussian; the variance of column j falls as 1/j, as a Matryoshka space has most
information in its first columns. A query is a row plus noise of the same shape, at a cosine of
about 0.9.
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
from edge_lib.metrics.recall import overlap
from edge_lib.search import MatryoshkaIndex
from edge_lib.training.timing import seconds

ROWS, WIDTH, SMALL, QUERIES, TOP, SHORTLIST = 262_144, 1024, 64, 64, 10, 300
NOISE = 0.484  # relative to a row's norm


def embeddings(rows: int, queries: int, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Rows (N, width) and queries (Q, width), normalised."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    deviation = torch.arange(1, width + 1, device=device).rsqrt()

    def sample(count: int) -> Tensor:
        return torch.randn(count, width, generator=generator, device=device) * deviation

    x = sample(rows)
    targets = torch.randint(rows, (queries,), generator=generator, device=device)
    return F.normalize(x), F.normalize(x[targets] + NOISE * sample(queries))


def faiss_searches(rows: Tensor) -> dict[str, Callable[[Tensor], np.ndarray]]:
    """faiss's exact inner-product search, queries (Q, D) -> rows (Q, TOP): with its default
    settings, and without the BLAS of its wheel, which is slow for batches.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows.cpu().numpy())

    def search(queries: Tensor, blas_from: int) -> np.ndarray:
        faiss.cvar.distance_compute_blas_threshold = blas_from
        return index.search(queries.cpu().numpy(), TOP)[1]

    default = faiss.cvar.distance_compute_blas_threshold
    return {
        "faiss": partial(search, blas_from=default),
        "faiss_no_blas": partial(search, blas_from=2**30),
    }


def retrieval(rows: int = ROWS, rounds: int = 5) -> dict[str, float]:
    """Seconds of exact and coarse-to-fine search, for one query and a batch; recall; memory.
    `limit` is the product of the first SMALL columns alone.
    """
    x, queries = embeddings(rows, QUERIES)
    dims, columns = [SMALL, WIDTH], x[:, :SMALL].contiguous()
    index, small = MatryoshkaIndex(x, dims), MatryoshkaIndex(x, dims, "int8")
    faiss, result = faiss_searches(x), {}
    for name, batch in (("one_query", queries[:1]), ("batch", queries)):
        by_dim = {
            "ours": partial(index.search, batch, TOP, SMALL),
            "ours_full_size": partial(index.search, batch, TOP),
            "limit": partial(torch.matmul, columns, batch[:, :SMALL].T),
        }
        result |= compare(f"seconds.dim{SMALL}.{name}", by_dim, rounds)
        against_faiss = {
            "ours": partial(index.search_coarse_to_fine, batch, TOP, dims, SHORTLIST),
            **{rival: partial(search, batch) for rival, search in faiss.items()},
            "limit": by_dim["limit"],
        }
        result |= compare(f"seconds.coarse_to_fine.{name}", against_faiss, rounds)
    exact = faiss["faiss"](queries)
    hits = {
        "exact": index.search(queries, TOP),
        "coarse_to_fine": index.search_coarse_to_fine(queries, TOP, dims, SHORTLIST),
        "int8": small.search(queries, TOP),
    }
    result |= {f"recall10.{name}": overlap(h.rows.cpu(), exact) for name, h in hits.items()}
    result["bytes.int8_of_fp32"] = small.nbytes / index.nbytes
    spent = (seconds(lambda: small.search(queries, TOP)) for _ in range(3))
    return result | {"seconds.int8.batch": median(spent)}


def against_brute_force(rows: int = 2**20, batches: tuple[int, ...] = (1, 64, 1024)) -> dict:
    """Seconds of exact and coarse-to-fine search on the device, for batches of queries, against one
    product with all rows and its topk.
    """
    x, queries = embeddings(rows, max(batches), WIDTH)
    dims, result = [SMALL, WIDTH], {}
    index = MatryoshkaIndex(x, dims)
    for count in batches:
        batch = queries[:count]
        searches = {
            "ours": partial(index.search_coarse_to_fine, batch, TOP, dims, SHORTLIST),
            "ours_exact": partial(index.search, batch, TOP),
            "brute_force": partial(_brute_force, x, batch),
        }
        result |= compare(f"seconds.q{count}", searches, rounds=5)
    exact = _brute_force(x, queries).cpu()
    result["recall10.exact"] = overlap(index.search(queries, TOP).rows.cpu(), exact)
    hits = index.search_coarse_to_fine(queries, TOP, dims, SHORTLIST)
    return result | {"recall10.coarse_to_fine": overlap(hits.rows.cpu(), exact)}


def _brute_force(rows: Tensor, queries: Tensor) -> Tensor:
    return (queries @ rows.T).topk(TOP, dim=1).indices


def search_costs(
    trained: Tensor, dims: list[int], rows: int = 131_072, queries: int = QUERIES
) -> pd.DataFrame:
    """Size and speed at each dim of an index of `rows` embeddings: `trained` (N, D), repeated with
    noise.

    Columns: dim, MB, MB in int8, ms (of an exact float32 search for `queries` queries).
    """
    index_rows = torch.randint(len(trained), (rows,), generator=torch.Generator().manual_seed(0))
    x = F.normalize(trained, dim=1)[index_rows]
    x += 0.1 * x.std(0) * torch.randn_like(x)
    records = []
    for dim in sorted(dims):
        index = MatryoshkaIndex(x[:, :dim], [dim])
        small = MatryoshkaIndex(x[:, :dim], [dim], "int8")
        spent = median(seconds(partial(index.search, x[:queries], TOP)) for _ in range(5))
        records.append((dim, index.nbytes / 2**20, small.nbytes / 2**20, 1e3 * spent))
    return pd.DataFrame(records, columns=["dim", "MB", "MB in int8", "ms"])
