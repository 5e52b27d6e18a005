"""Exact search in a Parquet file that `edge-glass embed` wrote, without torch."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edge_lib.config import ConfigError
from edge_lib.data.image import decode_image
from edge_lib.serving.centered import CenteredRows

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
        metadata = read_metadata(path)
        widest = max(metadata["dims"])
        with _other_files_refused(path):
            columns = [*COLUMNS, f"embedding_{widest}"]
            table = pq.read_table(path, columns=columns).combine_chunks()
        self.dims = sorted({*metadata["dims"], *(dim for dim in dims if dim < widest)})
        self.model_sha256 = metadata["model_sha256"]
        self._vectors = _vectors(table[f"embedding_{widest}"], widest)
        self._norms = {dim: np.linalg.norm(self._vectors[:, :dim], axis=1) for dim in self.dims}
        self._table = table.select(COLUMNS)
        self._rows = {
            name: np.flatnonzero(pc.equal(table["modality"], name))
            for name in table["modality"].unique().to_pylist()
        }
        self.picture: Callable[[int], bytes | None] = lru_cache(THUMBNAILS)(self._picture)

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def modalities(self) -> list[str]:
        return list(self._rows)

    def check_model(self, model_sha256: str | None) -> None:
        """ConfigError if another model embeds the queries: cosines would mean nothing."""
        if None not in (model_sha256, self.model_sha256) and model_sha256 != self.model_sha256:
            hint = "embed the items again with the one that is served"
            raise ConfigError(f"index: {self._path} was embedded by another model; {hint}")

    def search(
        self,
        vector: np.ndarray,
        k: int,
        dim: int | None = None,
        modality: str | None = None,
        center: str | None = None,
    ) -> list[Hit]:
        """The nearest rows (at most k) of an embedding (D,), best first; lower rows first where
        cosines are equal. modality: of the rows, None for any. center: the modality of the query,
        for cosines without the mean of each modality. KeyError or ValueError for a modality without
        rows, KeyError for another dim than of `dims`.
        """
        dim = max(self.dims) if dim is None else dim
        rows = np.arange(len(self)) if modality is None else self._rows[modality]
        if center is None:
            scores = self._cosines(vector, dim)
        else:
            scores = self._centered.cosines(vector, dim, self.modalities.index(center))
        scores = scores.round(6)  # BLAS adds equal rows in different orders
        best = _largest(scores[rows], k)
        return [self._hit(int(row), float(scores[row])) for row in rows[best]]

    def _cosines(self, vector: np.ndarray, dim: int) -> np.ndarray:
        query = vector[:dim] / max(np.linalg.norm(vector[:dim]), 1e-12)
        return self._vectors[:, :dim] @ query / self._norms[dim].clip(1e-12)

    @cached_property
    def _centered(self) -> CenteredRows:
        kinds = np.empty(len(self), np.int64)
        for number, rows in enumerate(self._rows.values()):
            kinds[rows] = number
        return CenteredRows(self._vectors, kinds)

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


@contextmanager
def _other_files_refused(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"index: no file {path}") from None
    except (KeyError, OSError, ValueError) as error:
        raise ConfigError(f"index: {path} is no file of `edge-glass embed`: {error}") from None


def read_metadata(path: Path) -> dict:
    """What `edge-glass embed` wrote of a file. ConfigError for another one, or one without rows."""
    with _other_files_refused(path), pq.ParquetFile(path) as file:
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        metadata = json.loads((schema.metadata or {})[b"edge_glass"])
        for name in (*COLUMNS, f"embedding_{max(metadata['dims'])}"):
            schema.field(name)
    if not num_rows:
        raise ConfigError(f"index: {path} has no rows")
    return metadata


def _vectors(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    """(N, D) float32; of int8 a multiple of each row, which has the same cosines."""
    vectors = column.combine_chunks().flatten().to_numpy().reshape(-1, dim)
    return vectors.astype(np.float32)


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest of (N,), in falling order; of equal ones the first."""
    smallest = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
    places = np.flatnonzero(scores >= smallest)
    return places[np.argsort(-scores[places], kind="stable")][:k]
