"""Search in our exact index in memory against LanceDB's IVF-PQ on disk, for collections that
memory does not hold: in 131,072 embeddings of 256 dims and in 16,384 trained ones.

The former and their queries are those of the benchmark `retrieval`, in float32; the latter are
images of scenes, and their queries captions, both by `tiny-align`. IVF-PQ looks at the rows of the
nearest probes of all partitions, each row as a product of BYTES bytes; refined, it compares REFINE
times as many rows as are asked for once more, in full.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch.nn.functional as F
from torch import Tensor

from edge_lib.bench.retrieval import QUERIES, SHORTLIST, SMALL, TOP, embeddings
from edge_lib.bench.tools import compare
from edge_lib.config import load_config
from edge_lib.experiments.align import embed_table
from edge_lib.features.extract import write_stores
from edge_lib.features.store import FeatureStore
from edge_lib.features.store_writer import StoreWriter
from edge_lib.metrics.recall import overlap
from edge_lib.models import Aligner
from edge_lib.search import MatryoshkaIndex
from edge_lib.sources import load_table
from edge_lib.training.timing import seconds

ROWS, TRAINED_ROWS, WIDTH, BYTES, REFINE = 131_072, 16_384, 256, 32, 20
COLUMN = "embedding"
SCENES = f"data.scenes.train_size={TRAINED_ROWS} data.scenes.val_size=4 "
SCENES += f"data.scenes.test_size={QUERIES} data.cache_dir={{folder}}"


def lance() -> dict[str, float]:
    """Seconds of 64 searches one after the other, recall of the 10 best, and bytes."""
    rows, queries = (x.cpu() for x in embeddings(ROWS, QUERIES, WIDTH))
    trained = measure(*trained_embeddings(), partitions=64, probes=(4, 16))
    return measure(rows, queries, partitions=256, probes=(10, 50)) | {
        f"trained.{key}": value for key, value in trained.items()
    }


def trained_embeddings() -> tuple[Tensor, Tensor]:
    """Unit embeddings of images (TRAINED_ROWS, WIDTH) and captions (QUERIES, WIDTH)."""
    aligner = Aligner.from_pretrained("tiny-align")
    with TemporaryDirectory() as folder:
        config = load_config("params/tiny/align.yaml", SCENES.format(folder=folder))
        spec = aligner.feature_spec(config.features, config.data.cache_dir)
        parts = []
        for name, split in (("vision", "train"), ("text", "test")):
            writer = StoreWriter(spec, name, load_table(config.data, split))
            write_stores([writer], spec)
            store = FeatureStore(writer.folder)
            parts.append(embed_table(aligner, writer.table, {name: store})[0][name])
    return tuple(F.normalize(part, dim=1) for part in parts)


def measure(
    rows: Tensor, queries: Tensor, partitions: int, probes: Sequence[int]
) -> dict[str, float]:
    """Our index and IVF-PQ with these partitions, of which `probes` are looked at."""
    index = MatryoshkaIndex(rows, [SMALL, rows.shape[1]])
    with TemporaryDirectory() as folder:
        table = _create_table(Path(folder), rows)
        result = {"seconds.build.ivf_pq": seconds(partial(_create_index, table, partitions))}
        searches: dict[str, Callable] = {
            "ours": partial(_search_ours, index, queries),
            "ours_coarse_to_fine": partial(_search_ours, index, queries, index.dims),
        }
        for number in probes:
            searches[f"ivf_pq{number}"] = partial(_search, table, queries, number, None)
            searches[f"ivf_pq{number}_refined"] = partial(_search, table, queries, number, REFINE)
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
    lists = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    columns = pa.table({"row": np.arange(len(rows)), COLUMN: lists})
    return lancedb.connect(folder).create_table("items", columns)


def _create_index(table, partitions: int) -> None:
    from lancedb.index import IvfPq

    sizes = {"num_partitions": partitions, "num_sub_vectors": BYTES}
    table.create_index(COLUMN, config=IvfPq(distance_type="cosine", **sizes))


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
