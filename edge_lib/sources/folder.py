"""Folders of pictures or sounds, as imagefolder and audiofolder have them, or with texts beside."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, Features, List, Value

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data.table import Table
from edge_lib.data.unicode import is_unicode
from edge_lib.sources.digests import table_fingerprint
from edge_lib.sources.files import SUFFIXES
from edge_lib.sources.select import MEDIA, SPLIT_BY, Columns
from edge_lib.sources.split import held_out
from edge_lib.sources.tabular import column_names, first_part, read_tables

FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def load(config: DataConfig, split: str) -> Table:
    """The pictures and sounds in the folder of a split, with captions unless none are wanted."""
    root, name = config.folder.path, f"folder {split}"
    folder = _folder_of_split(config, split)
    listed = {place: [*_walk(place)] for place in (root, folder)}
    for place in dict.fromkeys((folder, root)):
        if files := [Path(file) for file in listed[place] if os.path.basename(file) in METADATA]:
            columns = _columns(files[0], config)
            table = read_tables(name, files, config.cache_dir, columns)
            return table if place == folder else _inside(table, folder, columns)
    if config.split and config.split.by:
        raise ConfigError(f"data.split.by: {root} has no metadata with columns")
    wanted = config.folder.caption_column is not None
    return _read_files(name, folder, listed[folder], config.cache_dir, wanted)


def _folder_of_split(config: DataConfig, split: str) -> Path:
    """The folder called like the split; for train all of it, if data.split makes the others, or
    there are none.
    """
    root, taken = config.folder.path, held_out(config.split) if config.split else []
    of_split = split_folders(root)
    if "train" not in of_split and split == "train" and (len(taken) == 2 or not of_split):
        return root
    if split not in of_split:
        raise ConfigError(
            f"data.folder.path: {root} has no folder {split!r}; make folders train, val and test, "
            "or set data.split"
        )
    if twice := [name for name in taken if name in of_split]:
        raise ConfigError(f"data.split.{twice[0]}: {of_split[twice[0]]} exists; set it to 0")
    return of_split[split]


def split_folders(root: Path) -> dict[str, Path]:
    """The folders called like splits, by split. ConfigError if the root is no folder."""
    if not root.is_dir():
        raise ConfigError(f"data.folder.path: no such folder {root}")
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return {name: folders[alias] for name in FOLDERS for alias in FOLDERS[name] if alias in folders}


def metadata_file(*folders: Path) -> Path | None:
    """The first file of metadata in or below one of the folders."""
    files = (Path(file) for folder in folders for file in _walk(folder))
    return next((file for file in files if file.name in METADATA), None)


def _walk(folder: Path) -> Iterator[str]:
    """All files below a folder, sorted, without hidden ones."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if _is_shown(Path(parent, name)))
        yield from (f"{parent}/{name}" for name in sorted(names) if not name.startswith("."))


def _is_shown(folder: Path) -> bool:
    """Not hidden, not one that macOS adds, and no link to a folder that it is in."""
    if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
        return False
    return not folder.name.startswith((".", "__MACOSX"))


def _columns(file: Path, config: DataConfig) -> dict[str, list[str]]:
    """The named columns of a metadata file; whether its files are pictures or sounds is told by
    the first one's suffix.
    """
    available = column_names(file)
    names = [name for name in available if name == "file_name" or name.endswith("_file_name")]
    if not names:
        raise ConfigError(f"{file} has no column 'file_name'; it has {available}")
    columns = {"id": [config.folder.id_column or names[0]]}
    if config.folder.caption_column:
        columns["texts"] = config.folder.caption_column
    first = first_part(file, {"id": names}).select(names)
    for name, values in first.to_pydict().items():
        kind = file_kind(next(filter(None, values), ""))
        if kind is None or kind in columns:
            problem = f"a second column of {kind} files" if kind else "names no picture or sound"
            raise ConfigError(f"{file}: column {name!r}: {problem}")
        columns[kind] = [name]
    return columns | ({SPLIT_BY: [config.split.by]} if config.split and config.split.by else {})


def file_kind(file: str) -> str | None:
    """image, audio or None, by the suffix of a file."""
    suffix = os.path.splitext(file)[1].lower()
    return next((name for name, known in SUFFIXES.items() if suffix in known), None)


def _inside(table: Table, folder: Path, columns: Columns) -> Table:
    """The rows whose files are below a folder."""
    (column, *_) = (name for name in MEDIA if name in columns)
    paths = table.column(column)
    rows = [row for row, path in enumerate(paths) if path and Path(path).is_relative_to(folder)]
    if not rows:
        raise ConfigError(f"{folder}: no row of the metadata in {folder.parent} names a file in it")
    return table.select(rows, table.name, f"{table.fingerprint}-{folder.name}")


def _read_files(
    name: str, folder: Path, files: list[str], cache_dir: Path, captions: bool
) -> Table:
    """Files with a .txt beside them, one caption a line; or in folders that are their captions.
    captions: whether there must be some. Without pictures and sounds, a row for each .txt.
    """
    texts = {file[:-4]: file for file in files if file[-4:].lower() == ".txt"}
    samples = defaultdict(dict)
    for file in filter(is_unicode, files):
        if kind := file_kind(file):
            stem = os.path.splitext(file)[0]
            samples[file if kind in samples.get(stem, ()) else stem][kind] = file
    if not samples:
        samples |= {stem: {"texts": file} for stem, file in texts.items() if is_unicode(file)}
    classes = {os.path.dirname(stem) for stem in samples} - {str(folder)}
    if not samples:
        raise ConfigError(f"{folder}: no pictures, no sounds and no .txt files")
    if captions and not texts and len(classes) < 2:
        raise ConfigError(
            f"{folder}: {len(samples)} pictures or sounds without captions: no metadata.csv, "
            ".jsonl or .parquet, no .txt beside them, and not one folder a class"
        )
    columns = {name: [kinds.get(name) for kinds in samples.values()] for name in MEDIA}
    firsts = [next(iter(kinds.values())) for kinds in samples.values()]
    columns["id"] = [file.removeprefix(f"{folder}/") for file in firsts]
    if captions or texts:
        columns["texts"] = [_captions(file, texts, folder) for file in firsts]
    types = {"texts": List(Value("string"))}
    features = Features({name: types.get(name, Value("string")) for name in columns})
    dataset = Dataset.from_dict(columns, features)
    facts = json.dumps([columns["id"], columns.get("texts")])
    table = Table(dataset, name, table_fingerprint(dataset, [], cache_dir, facts))
    broken = [row for row, own in enumerate(columns.get("texts", ())) if own is None]
    table.skip_rows("a .txt that is not UTF-8", broken)
    if unnamed := [ascii(file) for file in files if not is_unicode(file)]:
        table.skip_names("a name that is not UTF-8", unnamed)
    return table


def _captions(file: str, texts: dict[str, str], folder: Path) -> list[str] | None:
    """The captions of a file; None if they cannot be read."""
    beside = texts.get(os.path.splitext(file)[0]) or texts.get(file)
    try:
        if beside:
            return Path(beside).read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return None
    parent = os.path.dirname(file)
    return [] if texts or parent == str(folder) else [os.path.basename(parent).replace("_", " ")]
