"""Data sets of the Hugging Face Hub, or in a folder, whose pictures and sounds stay encoded."""

import hashlib
import json
import os
import re
import tempfile
from functools import cache
from pathlib import Path

from datasets import Dataset, concatenate_datasets, load_dataset
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import HfApi

from edge_lib.config import ROOT, ConfigError, DataConfig, HubSplitsConfig, from_root
from edge_lib.data.table import Table
from edge_lib.runs.files import whole_file, whole_folder
from edge_lib.runs.lock import hold_lock
from edge_lib.sources.digests import table_fingerprint
from edge_lib.sources.join import join_table
from edge_lib.sources.paths import resolve_paths
from edge_lib.sources.select import Columns, check_named, named_columns, select_columns


def load(config: DataConfig, split: str) -> Table:
    """The rows of one split of `data.hub`."""
    columns = named_columns(config.hub, config.split and config.split.by)
    return read_hub(config.hub, split, columns, config.cache_dir, "data.hub")


def read_hub(
    source: HubSplitsConfig, split: str, columns: Columns, cache_dir: Path, key: str
) -> Table:
    """The named columns of a split. Rows with the same picture and sound become one row with all
    their captions. key: of the config for errors.
    """
    dataset, where = open_split(source, split, cache_dir, key), f"{key}: {source.name}"
    check_named(dataset.features, columns, where)
    rows = dataset.data.table.replace_schema_metadata(dataset.features.arrow_schema.metadata)
    selected = resolve_paths(select_columns(rows, columns, where), [ROOT], where)
    facts = getattr(source, split), json.dumps(columns)  # a split may be a slice of these files
    fingerprint = table_fingerprint(Dataset(selected), cache_files(dataset), cache_dir, *facts)
    return join_table(Table(Dataset(selected), f"hub {split}", fingerprint), cache_dir)


def open_split(source: HubSplitsConfig, split: str, cache_dir: Path, key: str) -> Dataset:
    """The data set; its pictures and sounds are not decoded in `data.table`."""
    name = getattr(source, split)
    if name is None:
        keys = f"{key}.{split}", f"{key.rpartition('.')[0]}.split.{split}"
        raise ConfigError("{} is null; name a split, or set {}".format(*keys))
    try:
        return _open(source, name, cache_dir)
    except Exception as error:  # of many types: names, networks, files, splits
        problem = " ".join(str(error).split()) or repr(error)
        raise ConfigError(f"{key}: {source.name}: {problem}") from None


def cache_files(dataset: Dataset) -> list[Path]:
    """The files that hold the rows of a data set, and maybe others."""
    return [Path(file["filename"]) for file in dataset.cache_files]


def _open(source: HubSplitsConfig, split: str, cache_dir: Path) -> Dataset:
    folder = from_root(source.name)
    if (folder / "dataset_dict.json").exists():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        if split not in splits:
            raise ValueError(f"no split {split!r}, only {', '.join(splits)}")
        return _open_saved(folder / split)
    if (folder / "state.json").exists():
        if split != "train":
            raise ValueError("it was saved without splits; set data.split to divide it")
        return _open_saved(folder)
    cache = plain_cache(cache_dir / "hub")
    if not folder.is_dir() and not _cached(source.name, Path(cache)):
        _check_hub(source.name)
    name = plain_folder(folder) if folder.is_dir() else source.name
    options = {"split": split, "revision": source.revision, "cache_dir": cache}
    return load_dataset(name, source.config, **options)


def _cached(name: str, folder: Path) -> bool:
    """Whether `load_dataset` can open it without the hub."""
    *namespace, name = name.split("/")
    return (folder / "___".join([*namespace, camelcase_to_snakecase(name)])).is_dir()


@cache
def _check_hub(name: str) -> None:
    """Ask the hub once: `load_dataset` would retry for minutes, and log each try."""
    HfApi().dataset_info(name, timeout=10)


def _open_saved(folder: Path) -> Dataset:
    """What save_to_disk wrote. `load_from_disk` takes some characters in a path for a pattern."""
    files = json.loads((folder / "state.json").read_text())["_data_files"]
    return concatenate_datasets([Dataset.from_file(str(folder / f["filename"])) for f in files])


# `datasets` opens files with fsspec, which takes these for patterns or for the end of a path
ODD = re.compile(r"[\[\]*?{}]|::")


def plain_folder(folder: Path) -> str:
    """The folder; or one of links to its files, if its path is odd."""
    if not ODD.search(str(folder)):
        return str(folder)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    links = _temporary([str(folder), *names])
    with hold_lock(Path(f"{links}.lock")):
        if not links.exists():
            with whole_folder(links) as temporary:
                for name in names:
                    (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                    (temporary / name).symlink_to(folder / name)
    return str(links)


def plain_cache(folder: Path) -> str:
    """The folder, which is made; or a link to it, if its path is odd."""
    folder.mkdir(parents=True, exist_ok=True)
    if not ODD.search(str(folder)):
        return str(folder)
    link = _temporary([str(folder)])
    with whole_file(link) as temporary:
        temporary.symlink_to(folder)
    return str(link)


def _temporary(names: list[str]) -> Path:
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"edge-glass-{os.getuid()}-{digest}")
