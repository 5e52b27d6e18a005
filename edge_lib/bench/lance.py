"""Search in 131,072 embeddings of 256 dims: our exact index in memory against LanceDB's IVF-PQ on
disk, for collections that memory does not hold.

Embeddings and queries are those of the benchmark `retrieval`, in float32. IVF-PQ looks at the rows
of the nearest PROBES of PARTITIONS clusters, each row as a product of BYTES bytes; refined, it
compares REFINE times as many rows as are asked for once more, in full.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from edge_lib.bench.retrieval import QUERIES, SHORTLIST, SMALL, TOP, embeddings, overlap
from edge_lib.bench.tools import compare
from edge_lib.search import MatryoshkaIndex
from edge_lib.training.timing import seconds

ROWS, WIDTH, PARTITIONS, BYTES, REFINE = 131_072, 256, 256, 32, 20
PROBES = (10, 50)
COLUMN = "embedding"


def lance() -> dict[str, float]:
    """Seconds of 64 searches one after the other, recall of the 10 best, and bytes."""
    torch.set_num_threads(2)
    rows, queries = (x.cpu() for x in embeddings(ROWS, QUERIES, WIDTH))
    index = MatryoshkaIndex(rows, [SMALL, WIDTH])
    with TemporaryDirectory() as folder:
        table = _create_table(Path(folder), rows)
        result = {"seconds.build.ivf_pq": seconds(partial(_create_index, table))}
        searches: dict[str, Callable] = {
            "ours": partial(_search_ours, index, queries),
            "coarse_to_fine": partial(_search_ours, index, queries, [SMALL, WIDTH]),
        }
        for probes in PROBES:
            searches[f"ivf_pq{probes}"] = partial(_search, table, queries, probes, None)
            searches[f"ivf_pq{probes}_refined"] = partial(_search, table, queries, probes, REFINE)
        result |= compare("seconds.queries", searches, rounds=3)
        exact = searches.pop("ours")()
        result |= {f"recall10.{name}": overlap(f(), exact) for name, f in searches.items()}
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        result["bytes.ours_in_memory"] = index.nbytes
        result["bytes.lance_on_disk"] = sum(path.stat().st_size for path in files)
    return result


def _create_table(folder: Path, rows: Tensor):
    import lancedb

    flat = pa.array(rows.numpy().ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, WIDTH)
    columns = pa.table({"row": np.arange(len(rows)), COLUMN: lists})
    return lancedb.connect(folder).create_table("items", columns)


def _create_index(table) -> None:
    table.create_index(
        metric="cosine",
        vector_column_name=COLUMN,
        index_type="IVF_PQ",
        num_partitions=PARTITIONS,
        num_sub_vectors=BYTES,
    )


def _search_ours(index: MatryoshkaIndex, queries: Tensor, dims: list[int] | None = None):
    """The rows (Q, TOP), each query on its own; over `dims` coarse to fine."""
    search = partial(index.search_coarse_to_fine, dims=dims, shortlist=SHORTLIST)
    search = search if dims else index.search
    return np.concatenate([search(query[None], TOP).rows.numpy() for query in queries])


def _search(table, queries: Tensor, probes: int, refine: int | None) -> np.ndarray:
    """The rows (Q, TOP) by IVF-PQ."""
    lists = []
    for query in queries.numpy():
        search = table.search(query, vector_column_name=COLUMN).distance_type("cosine")
        search = search.nprobes(probes).limit(TOP).select(["row", "_distance"])
        search = search.refine_factor(refine) if refine else search
        lists.append(search.to_arrow()["row"].to_numpy())
    return np.stack(lists)
