"""Sources: what a config's `data` section names, as tables of the one schema."""

import csv
import hashlib
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from types import ModuleType

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, Dataset, Image
from filelock import FileLock

from edge_lib.config import ConfigError, DataConfig, QuestionsConfig, ScenesConfig, from_root
from edge_lib.data import degrade, question_sources, questions, scene_table, scenes, speech
from edge_lib.data.question_sources import (
    caption_questions,
    gqa_questions,
    scene_questions,
    vqav2_questions,
)
from edge_lib.data.scene_table import DEGRADED, degraded_rows, scene_rows, scene_splits
from edge_lib.data.table import SCHEMA, Table, fingerprint_files
from edge_lib.runs import whole_file

QUESTIONS = "qa-"  # before train, val or test: the questions that data.questions describes


def splits(config: DataConfig) -> tuple[str, ...]:
    """The splits a source has."""
    named = ("train", "val", "test")
    return scene_splits(config.scenes) if config.source == "scenes" else named


def load_table(config: DataConfig, split: str) -> Table:
    """The table of one of `splits`, or of one of its questions: "qa-train", "qa-val", "qa-test"."""
    if split.startswith(QUESTIONS):
        return _load_questions(config, split.removeprefix(QUESTIONS))
    return LOADERS[config.source](config, split)


def _load_questions(config: DataConfig, split: str) -> Table:
    asked = config.questions
    if asked is None:
        raise ConfigError("data.questions is not there: it says what is asked")
    if asked.source == "captions":
        return caption_questions(load_table(config, split))
    if asked.source != "scenes":
        return {"vqav2": vqav2_questions, "gqa": gqa_questions}[asked.source](asked, split)
    version = _version(asked, scenes, questions, question_sources)
    path = config.cache_dir / f"questions-{version}" / f"{split}.parquet"
    return _made_once(path, lambda: scene_questions(asked, split), f"questions {split}")


def _load_scenes(config: DataConfig, split: str) -> Table:
    """Make the split's Parquet file on first use, then read it like any other."""
    version = _version(config.scenes, scenes, scene_table, speech, degrade)
    path = config.cache_dir / f"scenes-{version}" / f"{split}.parquet"
    return _made_once(path, lambda: _scene_rows(config, split), f"scenes {split}")


def _made_once(path: Path, rows: Callable[[], Iterator[dict]], name: str) -> Table:
    """The table in a Parquet file under the cache, whose rows are made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _write_parquet(path, rows())
    return _read_parquet([path], name, path.parents[1], {})


def _scene_rows(config: DataConfig, split: str) -> Iterator[dict]:
    if not split.startswith(DEGRADED):
        return scene_rows(config.scenes, split)
    return degraded_rows(config.scenes, load_table(config, split.removeprefix(DEGRADED)))


def _version(config: ScenesConfig | QuestionsConfig, *modules: ModuleType) -> str:
    """Changes with the config and with the code that draws, speaks or asks."""
    code = (Path(module.__file__).read_text() for module in modules)
    return hashlib.sha256("".join([config.model_dump_json(), *code]).encode()).hexdigest()[:12]


def _write_parquet(path: Path, rows: Iterator[dict]) -> None:
    with whole_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), temporary)


def _load_parquet(config: DataConfig, split: str) -> Table:
    """Parquet files in PixMo's shape; columns are found under the names the config gives."""
    source = config.parquet
    files = [path for pattern in getattr(source, split) for path in _matches(pattern, split)]
    named = {
        source.image_column: "image",
        source.audio_column: "audio",
        source.caption_column: "texts",
        source.id_column: "id",
    }
    wanted = {column: name for column, name in named.items() if column}
    return _read_parquet(files, f"parquet {split}", config.cache_dir, wanted)


def _matches(pattern: str, split: str) -> list[Path]:
    path = from_root(pattern)
    found = sorted(map(Path, glob(str(path), recursive=True)))
    if not found:
        raise ConfigError(f"data.parquet.{split}: no file matches {path}")
    return found


def _read_parquet(files: list[Path], name: str, cache_dir: Path, wanted: dict) -> Table:
    """Memory-mapped: `datasets` converts to Arrow once and keeps that under the cache.

    wanted: column in the files -> its name in the schema; all columns if empty.
    """
    for file in files:
        available = pq.read_schema(file).names
        missing = [column for column in wanted if column not in available]
        if missing:
            raise ConfigError(f"{file} has no column {missing}; it has {available}")
    dataset = Dataset.from_parquet(
        list(map(str, files)), cache_dir=str(cache_dir / "arrow"), columns=list(wanted) or None
    )
    dataset = dataset.rename_columns({old: new for old, new in wanted.items() if old != new})
    for column, kind in (("image", Image), ("audio", Audio)):
        if isinstance(dataset.features.get(column), kind):
            dataset = dataset.cast_column(column, kind(decode=False))
    return Table(dataset, name, fingerprint_files(files, *wanted))


def _load_common_voice(config: DataConfig, split: str) -> Table:
    """Mozilla Common Voice: a tsv with `path` and `sentence`, and the clips as mp3 beside it."""
    source = config.common_voice
    path = source.folder / getattr(source, split)
    if not path.is_file():
        raise ConfigError(f"data.common_voice.{split}: no such file {path}")
    # a sentence may hold quotes, which mean nothing in these files
    table = pd.read_csv(path, sep="\t", dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False)
    missing = {"path", "sentence"} - set(table.columns)
    if missing:
        raise ConfigError(f"{path} has no column {sorted(missing)}; it has {list(table.columns)}")
    clips = [{"bytes": None, "path": str(source.folder / "clips" / name)} for name in table["path"]]
    columns = {"id": list(table["path"]), "audio": clips, "texts": list(table["sentence"])}
    dataset = Dataset.from_dict(columns)
    return Table(dataset, f"common_voice {split}", fingerprint_files([path]))


LOADERS = {"scenes": _load_scenes, "parquet": _load_parquet, "common_voice": _load_common_voice}
