"""Sources: what a config's `data` section names, as tables of the one schema."""

import csv
from collections.abc import Iterator

import pandas as pd
from datasets import Dataset

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data import degrade, question_sources, questions, scene_table, scenes, speech
from edge_lib.data.conversations import load_conversations
from edge_lib.data.parquet import made_once, matching, read_parquet, version_of
from edge_lib.data.question_sources import (
    caption_questions,
    gqa_questions,
    scene_questions,
    vqav2_questions,
)
from edge_lib.data.scene_table import DEGRADED, degraded_rows, scene_rows, scene_splits
from edge_lib.data.table import Table, fingerprint_files

# before train, val or test: what data.questions, or data.conversations, describes
QUESTIONS, CONVERSATIONS = "qa-", "chat-"


def splits(config: DataConfig) -> tuple[str, ...]:
    """The splits a source has."""
    named = ("train", "val", "test")
    return scene_splits(config.scenes) if config.source == "scenes" else named


def load_table(config: DataConfig, split: str) -> Table:
    """The table of one of `splits`, or "qa-train", "chat-train", ...: its questions, its
    conversations.
    """
    if split.startswith(QUESTIONS):
        return _load_questions(config, split.removeprefix(QUESTIONS))
    if split.startswith(CONVERSATIONS):
        if config.conversations is None:
            raise ConfigError("data.conversations is not there: it says what is talked about")
        split = split.removeprefix(CONVERSATIONS)
        return load_conversations(config.conversations, config.cache_dir, split)
    return LOADERS[config.source](config, split)


def _load_questions(config: DataConfig, split: str) -> Table:
    asked = config.questions
    if asked is None:
        raise ConfigError("data.questions is not there: it says what is asked")
    if asked.source == "captions":
        return caption_questions(load_table(config, split))
    if asked.source != "scenes":
        return {"vqav2": vqav2_questions, "gqa": gqa_questions}[asked.source](asked, split)
    version = version_of(asked, scenes, questions, question_sources)
    path = config.cache_dir / f"questions-{version}" / f"{split}.parquet"
    return made_once(path, lambda: scene_questions(asked, split), f"questions {split}")


def _load_scenes(config: DataConfig, split: str) -> Table:
    """Make the split's Parquet file on first use, then read it like any other."""
    version = version_of(config.scenes, scenes, scene_table, speech, degrade)
    path = config.cache_dir / f"scenes-{version}" / f"{split}.parquet"
    return made_once(path, lambda: _scene_rows(config, split), f"scenes {split}")


def _scene_rows(config: DataConfig, split: str) -> Iterator[dict]:
    if not split.startswith(DEGRADED):
        return scene_rows(config.scenes, split)
    return degraded_rows(config.scenes, load_table(config, split.removeprefix(DEGRADED)))


def _load_parquet(config: DataConfig, split: str) -> Table:
    """Parquet files in PixMo's shape; columns are found under the names the config gives."""
    source, key = config.parquet, f"data.parquet.{split}"
    files = [path for pattern in getattr(source, split) for path in matching(pattern, key)]
    named = {
        source.image_column: "image",
        source.audio_column: "audio",
        source.caption_column: "texts",
        source.id_column: "id",
    }
    wanted = {column: name for column, name in named.items() if column}
    return read_parquet(files, f"parquet {split}", config.cache_dir, wanted)


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
