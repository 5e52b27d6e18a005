"""Search in a Parquet file that `edge-glass embed` wrote."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.config import ConfigError
from edge_lib.data.image import decode_image
from edge_lib.search import MatryoshkaIndex

SIDE = 256  # of a thumbnail
THUMBNAILS = 1024  # that are kept, of about 10 kB
COLUMNS = ["id", "modality", "text", "path"]


@dataclass(frozen=True)
class Hit:
    """A row of the file. score: cosine. text: the caption, of a picture or clip its first."""

    row: int
    score: float
    id: str | None
    text: str | None
    modality: str
    has_picture: bool


class SearchIndex:
    """The rows of a file, searched by cosine at any size of the model, up to the file's largest.
    ConfigError for another file.

    dims: sizes of the model. model_sha256: of the aligner that embedded the rows, None if it was
    never saved.
    """

    def __init__(self, path: Path, dims: Sequence[int] = ()):
        self._path = path
        self._table, metadata = _read(path)
        widest = max(metadata["dims"])
        self.dims = sorted({*metadata["dims"], *(dim for dim in dims if dim < widest)})
        self.model_sha256 = metadata["model_sha256"]
        self._parts = {
            name: (rows, MatryoshkaIndex(vectors, self.dims))
            for name, rows, vectors in _parts(self._table, max(self.dims))
        }
        self._table = self._table.select(COLUMNS)
        self.picture: Callable[[int], bytes | None] = lru_cache(THUMBNAILS)(self._picture)

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def modalities(self) -> list[str]:
        return list(self._parts)

    def check_model(self, model_sha256: str | None) -> None:
        """ConfigError if another model embeds the queries: cosines would mean nothing."""
        if None not in (model_sha256, self.model_sha256) and model_sha256 != self.model_sha256:
            hint = "embed it anew with the one that is served"
            raise ConfigError(f"index: {self._path} was embedded by another model; {hint}")

    def search(
        self, vector: np.ndarray, k: int, dim: int | None = None, modality: str | None = None
    ) -> list[Hit]:
        """The nearest rows (at most k) of an embedding (D,), best first; lower rows first where
        cosines are equal. modality: of the rows, None for any. KeyError for one without rows.
        """
        parts = self._parts.values() if modality is None else [self._parts[modality]]
        scores, rows = [], []
        for own_rows, index in parts:
            hits = index.search(vector[None], k, dim)
            scores.append(hits.scores[0].numpy())
            rows.append(own_rows[hits.rows[0].numpy()])
        scores, rows = np.concatenate(scores), np.concatenate(rows)
        best = np.lexsort((rows, -scores))[:k]
        return [self._hit(int(rows[n]), float(scores[n])) for n in best]

    def _hit(self, row: int, score: float) -> Hit:
        values = {name: self._table[name][row].as_py() for name in ("id", "text", "modality")}
        return Hit(row, score, **values, has_picture=self._image_path(row) is not None)

    def _image_path(self, row: int) -> str | None:
        if self._table["modality"][row].as_py() != "vision":
            return None
        return self._table["path"][row].as_py()

    def _picture(self, row: int) -> bytes | None:
        """A thumbnail of a row's picture as a JPEG; None where there is none. It holds no data of
        the file but pixels.
        """
        path = self._image_path(row) if 0 <= row < len(self) else None
        if path is None:
            return None
        try:
            image = decode_image(Path(path).read_bytes())
        except Exception:  # the file is gone or damaged
            return None
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        return file.getvalue()


def _read(path: Path) -> tuple[pa.Table, dict]:
    """The columns that are needed, and what the file says of itself."""
    try:
        schema = pq.read_schema(path)
        metadata = json.loads((schema.metadata or {})[b"edge_glass"])
        widest = max(metadata["dims"])
        columns = [*COLUMNS, *({f"embedding_{widest}", f"scale_{widest}"} & {*schema.names})]
        table = pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise ConfigError(f"index: no file {path}") from None
    except (KeyError, OSError, ValueError) as error:
        raise ConfigError(f"index: {path} is no file of `edge-glass embed`: {error}") from None
    if not table.num_rows:
        raise ConfigError(f"index: {path} has no rows")
    return table.combine_chunks(), metadata


def _parts(table: pa.Table, dim: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """For each modality its name, rows (N,) and embeddings (N, D)."""
    modalities = table["modality"].to_numpy()
    vectors = table[f"embedding_{dim}"].combine_chunks().flatten().to_numpy().reshape(-1, dim)
    for name in dict.fromkeys(modalities):
        rows = np.flatnonzero(modalities == name)
        yield name, rows, vectors[rows].astype(np.float32)  # of int8 a multiple, which is the same
