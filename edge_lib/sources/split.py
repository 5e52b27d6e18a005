"""Val and test rows taken from a source's train split, as `data.split` says.

Rows of one picture, clip or group are on one side, whatever the order of the rows; the same rows
and seed give the same splits.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from edge_lib.config import ConfigError, HeldOutConfig
from edge_lib.data.table import Table
from edge_lib.runs.arrays import load_array, save_array
from edge_lib.sources.digests import BATCH, cell_digests
from edge_lib.sources.select import MEDIA, SPLIT_BY
from edge_lib.sources.split_names import SPLITS

NO_LINKS = np.zeros((2, 0), np.int64)
KEYS = (SPLIT_BY, "group")  # columns whose equal values stay together


def held_out(config: HeldOutConfig) -> list[str]:
    """The splits that are taken from train."""
    return [split for split in ("val", "test") if getattr(config, split)]


def take_split(config: HeldOutConfig, split: str, whole: Table, cache_dir: Path) -> Table:
    """The rows of a source's train split that are in a split. ConfigError if there are none."""
    numbers = split_numbers(whole, config, cache_dir)
    for empty in {"train", *held_out(config)} - {SPLITS[number] for number in numbers}:
        raise ConfigError(
            f"data.split: {empty} is empty: {whole.name} has {len(whole)} rows, and those of one "
            f"picture, clip or group stay together; change split.val or split.test"
        )
    rows = np.flatnonzero(numbers == SPLITS.index(split))
    digest = hashlib.sha256(whole.fingerprint.encode() + rows.tobytes()).hexdigest()
    table = whole.select(rows, f"{whole.name.removesuffix(' train')} {split}", digest[:16])
    if split == "train":  # what gave no row is counted once
        table.skipped.update(whole.skipped)
    return table


def split_numbers(whole: Table, config: HeldOutConfig, cache_dir: Path) -> np.ndarray:
    """(N,) the index in SPLITS of each row's split, kept under the cache."""
    path = cache_dir / "splits" / f"{whole.fingerprint}-{config.digest()}.npz"
    if not path.exists():
        save_array(path, divide([*row_keys(whole, cache_dir)], config, image_links(whole)))
    return load_array(path)


def row_keys(table: Table, cache_dir: Path) -> Iterator[np.ndarray]:
    """(N,) texts, or None, that rows share if they belong together: the content of their picture,
    that of their clip, the values of KEYS, the id of a picture in another row, and the turns of a
    conversation without these. The captions, if there is nothing else.
    """
    names = table.dataset.column_names
    keys = [cell_digests(table, name, cache_dir) for name in MEDIA if name in names]
    keys += [table.column(name) for name in KEYS if name in names]
    if "image_id" in names:  # of a row with a picture it may be a path, which a copy changes
        ids = zip(table.column("image_id"), table.has("image"), strict=True)
        keys.append([None if has_image else name for name, has_image in ids])
    if "turns" in names:
        keyed = [any(values) for values in zip(*keys, strict=True)] or [False] * len(table)
        keys.append(_turns(table, np.array(keyed, bool)))
    for values in keys or [map(str, table.column("texts"))]:
        yield np.array([None if v is None or v == "" else str(v) for v in values], object)


def image_links(table: Table) -> np.ndarray:
    """(2, M) pairs of rows: one, and another that holds its image or one of its images."""
    own = table.column("image_id")
    rows = {name: row for row, name in enumerate(own) if name}
    names = zip(own, table.column("image_ids"), strict=True)
    images = [
        (row, name) for row, (one, others) in enumerate(names) for name in [one, *(others or [])]
    ]
    pairs = [(row, rows[name]) for row, name in images if name in rows]
    return np.array(pairs, np.int64).reshape(-1, 2).T


def _turns(table: Table, keyed: np.ndarray) -> list[str | None]:
    """The digest of each row's turns; None where it has none or another key."""
    digests: list[str | None] = [None] * len(table)
    rows = np.flatnonzero(~keyed).tolist()
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        for row, turns in zip(batch, table.cells("turns", batch), strict=True):
            content = json.dumps(turns).encode()
            digests[row] = hashlib.sha256(content).hexdigest() if turns else None
    return digests


def divide(
    keys: list[np.ndarray], config: HeldOutConfig, links: Sequence[np.ndarray] = NO_LINKS
) -> np.ndarray:
    """(N,) the index in SPLITS of each row. keys: (N,) texts that connected rows share. links: (2,
    M) pairs of rows that are connected as well.
    """
    units = connected(keys, links)
    sizes = np.bincount(units)
    draws = np.full(len(sizes), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(draws, units, _draws(keys, config.seed))
    order, splits = np.argsort(draws, kind="stable"), np.zeros(len(sizes), np.uint8)
    for split in ("val", "test"):
        rows = getattr(config, split) * len(units)
        fitting = order[sizes[order] <= 2 * rows]  # a larger unit would be more than the split
        middles = np.cumsum(sizes[fitting]) - sizes[fitting] / 2
        taken = fitting[middles <= rows]
        splits[taken] = SPLITS.index(split)
        order = order[~np.isin(order, taken)]
    return splits[units]


def connected(keys: list[np.ndarray], links: Sequence[np.ndarray] = NO_LINKS) -> np.ndarray:
    """(N,) a number that rows share if a chain of equal keys and links connects them."""
    rows = len(keys[0])
    codes = [pd.factorize(values)[0] for values in keys]  # -1 for None
    starts = rows + np.cumsum([0, *(code.max(initial=-1) + 1 for code in codes)])
    edges = [(np.flatnonzero(c >= 0), c[c >= 0] + s) for c, s in zip(codes, starts, strict=False)]
    one, other = map(np.concatenate, zip(*edges, links, strict=True))
    graph = coo_array((np.ones(len(one), bool), (one, other)), (starts[-1], starts[-1]))
    return pd.factorize(connected_components(graph, directed=False)[1][:rows])[0]


def _draws(keys: list[np.ndarray], seed: int) -> np.ndarray:
    """(N,) uint64 hashes of each row's keys."""
    rows = ["\n".join(filter(None, row)) for row in zip(*keys, strict=True)]
    rows = np.array(rows, object)
    return pd.util.hash_array(rows, hash_key=f"{seed:016d}"[:16], categorize=False)
