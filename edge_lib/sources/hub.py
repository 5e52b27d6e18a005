"""Data sets of the Hugging Face Hub, or in a folder, whose pictures and sounds stay encoded."""

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

from datasets import Dataset, concatenate_datasets, load_dataset

from edge_lib.config import ROOT, ConfigError, DataConfig, HubConfig, from_root
from edge_lib.data.table import Table
from edge_lib.sources.digests import table_fingerprint
from edge_lib.sources.paths import resolve_paths
from edge_lib.sources.select import check_named, named_columns, select_columns


def load(config: DataConfig, split: str) -> Table:
    """The rows of one split of `data.hub`."""
    source, where = config.hub, f"data.hub: {config.hub.name}"
    name = getattr(source, split)
    if name is None:
        raise ConfigError(f"data.hub.{split} is null; name a split, or set data.split.{split}")
    dataset = _open(source, name, config.cache_dir, where)
    columns = named_columns(source, config.split and config.split.by)
    check_named(dataset.features, columns, where)
    rows = dataset.data.table.replace_schema_metadata(dataset.features.arrow_schema.metadata)
    selected = resolve_paths(select_columns(rows, columns, where), [ROOT], where)
    files = [Path(file["filename"]) for file in dataset.cache_files]
    facts = name, json.dumps(columns)  # a split may be a slice of these files
    fingerprint = table_fingerprint(Dataset(selected), files, config.cache_dir, *facts)
    return Table(Dataset(selected), f"hub {split}", fingerprint)


def _open(source: HubConfig, split: str, cache_dir: Path, where: str) -> Dataset:
    folder = from_root(source.name)
    if (folder / "dataset_dict.json").exists():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        if split not in splits:
            raise ConfigError(f"{where}: no split {split!r}, only {', '.join(splits)}")
        return _open_saved(folder / split)
    if (folder / "state.json").exists():
        if split != "train":
            raise ConfigError(f"{where} was saved without splits; set data.split to divide it")
        return _open_saved(folder)
    try:
        return load_dataset(
            plain_path(folder) if folder.is_dir() else source.name,
            source.config,
            split=split,
            revision=source.revision,
            cache_dir=plain_path(cache_dir / "hub"),
        )
    except Exception as error:  # of many types: names, networks, files, splits
        raise ConfigError(f"{where}: {' '.join(str(error).split()) or repr(error)}") from None


def _open_saved(folder: Path) -> Dataset:
    """What save_to_disk wrote. `load_from_disk` takes some characters in a path for a pattern."""
    files = json.loads((folder / "state.json").read_text())["_data_files"]
    return concatenate_datasets([Dataset.from_file(str(folder / f["filename"])) for f in files])


def plain_path(folder: Path) -> str:
    """The folder, or a link to it if its path has characters that fsspec takes for a pattern."""
    if not re.search(r"[\[\]*?{}]|::", str(folder)):
        return str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    link = Path(tempfile.gettempdir(), f"edge-glass-{os.getuid()}-{digest}")
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
    return str(link)
