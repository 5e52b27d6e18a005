"""GQA (Hudson & Manning 2019): one answer per question; the kind is its structural type."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.entries import encodable
from edge_lib.sources.files import existing_folder, path_of_split, read_json
from edge_lib.sources.parsed import SkippedEntry, parsed_table
from edge_lib.sources.question_rows import COLUMNS, QuestionRows, answer_texts, has_suffix, id_text

KEY = "data.questions.gqa"


def load(config: DataConfig, split: str) -> Table:
    """One row per question; rows about one image share its `image_id`."""
    source, key = config.questions.gqa, f"{KEY}.questions.{split}"
    path = path_of_split(source.questions, split, f"{KEY}.questions")
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]  # train_all comes in parts
    if not files:
        raise ConfigError(f"{key}: no json file in {path}")
    folder = existing_folder(source.images, f"{KEY}.images")
    parse, cache_dir = partial(_rows, files, folder, key), config.cache_dir
    return parsed_table(f"gqa {split}", COLUMNS, parse, files, key, cache_dir, folder)


def _rows(files: Sequence[Path], folder: Path, key: str) -> Iterator[dict | SkippedEntry]:
    rows = QuestionRows()
    for path in files:
        content = read_json(path, key, object_pairs_hook=_keep_repeated)
        for name, entry in _named(content, path):
            if not isinstance(entry, dict):
                yield SkippedEntry(name, "not an object")
                continue
            image, types = id_text(entry.get("imageId")), entry.get("types")
            kind = types.get("structural") if isinstance(types, dict) else None
            path = folder / (image if has_suffix(image) else f"{image}.jpg") if image else None
            yield rows.row(name, entry.get("question"), answer_texts(entry), kind, path)


def _keep_repeated(pairs: list[tuple[str, object]]) -> dict | list:
    """An object; its pairs if keys repeat, of which json would keep the last alone."""
    content = dict(pairs)
    return content if len(content) == len(pairs) else pairs


def _named(content: object, path: Path) -> Iterator[tuple[str, object]]:
    """Questions by their id: an object of them, its pairs, or a list."""
    content = [*content.items()] if isinstance(content, dict) else content
    for number, entry in enumerate(content if isinstance(content, list) else []):
        name, entry = entry if isinstance(entry, tuple) else (None, entry)
        if name is None and isinstance(entry, dict):
            name = id_text(entry.get("questionId"))
        yield encodable(name or f"{path.stem}-{number}"), entry
