"""A `data` section made from a path alone: of a folder, or of files of a table.

Columns that are not named are recognised by their names; for a column of paths the suffix of the
first one tells whether they are pictures or sounds.
"""

from pathlib import Path

from edge_lib.config import ConfigError, DataConfig
from edge_lib.runs.files import absolute_path
from edge_lib.sources.files import SUFFIXES, match_files
from edge_lib.sources.folder import file_kind, metadata_file, split_folders
from edge_lib.sources.tabular import JSON, column_names, first_part

TABLES = {".csv", ".tsv", ".parquet", *JSON}
NAMES = {  # key of the config -> what such a column is often called, in lower case
    "image_column": ("image", "img", "picture", "photo", "image_path", "image_file"),
    "audio_column": ("audio", "sound", "clip", "speech", "audio_path", "audio_file"),
    "caption_column": ("caption", "captions", "text", "texts", "sentence", "title", "description"),
    "id_column": ("id", "key", "uid", "uuid"),
}
PATHS = ("file_name", "filename", "filepath", "file_path", "file", "path")

Columns = dict[str, str | list[str]]  # key of the config -> columns


def data_of_path(path: str | Path, **columns: str | list[str]) -> DataConfig:
    """The data section for a folder, a file of a table, or a glob pattern of such files, relative
    to the working directory.

    columns: `image_column`, `audio_column`, `caption_column` or `id_column`. All rows are the train
    split, unless a folder has folders of splits. Raises ConfigError for anything else.
    """
    path = absolute_path(path)
    if path.is_dir():
        return DataConfig(source="folder", folder={"path": path} | _folder_columns(path, columns))
    files = match_files([str(path)], "source")
    if unknown := [file for file in files if not TABLES & {*map(str.lower, file.suffixes)}]:
        raise ConfigError(
            f"{unknown[0]}: expected a folder, a config (.yaml) or a table "
            f"({', '.join(sorted(TABLES))}); other data is read through a config's data section"
        )
    columns = _table_columns(files[0], columns)
    return DataConfig(source="table", table={"train": [*map(str, files)]} | columns)


def own_splits(data: DataConfig) -> list[str]:
    """The splits that a section made by `data_of_path` has."""
    folders = split_folders(data.folder.path) if data.folder else {}
    return [*folders] or ["train"]


def _folder_columns(folder: Path, columns: Columns) -> Columns:
    if taken := columns.keys() & {"image_column", "audio_column"}:
        raise ConfigError(f"{folder}: a folder has no {min(taken)}: files are told by suffix")
    file = metadata_file(*split_folders(folder).values(), folder)
    if file is None and columns:
        raise ConfigError(f"{folder} has no metadata with columns, thus no {min(columns)}")
    caption = _column_called(file, "caption_column") if file else None
    return {"caption_column": caption, **columns}


def _column_called(file: Path, key: str) -> str | None:
    """The column of a file whose name is among NAMES, in their order."""
    available = {name.lower(): name for name in reversed(column_names(file))}
    return next((available[name] for name in NAMES[key] if name in available), None)


def _table_columns(file: Path, columns: Columns) -> Columns:
    """Those that are named, and those that are recognised. ConfigError if there is nothing to read
    pictures, sounds or captions from.
    """
    recognised = {key: _column_called(file, key) for key in NAMES} | columns
    media = recognised["image_column"] or recognised["audio_column"]
    if not media and (paths := _path_column(file)):
        recognised |= {paths[0]: paths[1]}
    if not any(value for key, value in recognised.items() if key != "id_column"):
        raise ConfigError(
            f"{file}: none of {column_names(file)} is recognised as pictures, sounds or captions; "
            "name them: image_column, audio_column, caption_column"
        )
    return recognised


def _path_column(file: Path) -> tuple[str, str] | None:
    """The key of the config and the column of a file's paths of pictures or sounds."""
    for name in (name for name in column_names(file) if name.lower() in PATHS):
        values = first_part(file, {"id": [name]}).column(name).to_pylist()
        kind = file_kind(str(next(filter(None, values), "")))
        if kind in SUFFIXES:
            return f"{kind}_column", name
    return None
