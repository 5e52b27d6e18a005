"""Mozilla Common Voice: a tsv with `path` and `sentence`, and the clips as mp3 beside it."""

import csv

import pandas as pd
from datasets import Dataset

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.files import fingerprint_files


def load(config: DataConfig, split: str) -> Table:
    """One row per clip, with its sentence as the caption."""
    source = config.common_voice
    path = source.folder / getattr(source, split)
    if not path.is_file():
        raise ConfigError(f"data.common_voice.{split}: no such file {path}")
    # quotes in a sentence are plain characters in these files
    table = pd.read_csv(path, sep="\t", dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False)
    missing = {"path", "sentence"} - set(table.columns)
    if missing:
        raise ConfigError(f"{path} has no column {sorted(missing)}; it has {list(table.columns)}")
    clips = [{"bytes": None, "path": str(source.folder / "clips" / name)} for name in table["path"]]
    columns = {"id": list(table["path"]), "audio": clips, "texts": list(table["sentence"])}
    dataset = Dataset.from_dict(columns)
    return Table(dataset, f"common_voice {split}", fingerprint_files([path]))
