"""VQAv2 (Goyal et al. 2017): its question and annotation files, ten answers per question."""

from collections import defaultdict, deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.files import path_of_split, read_json
from edge_lib.sources.parsed import SkippedEntry, parsed_table
from edge_lib.sources.question_rows import COLUMNS, QuestionRows, answer_texts, has_suffix, id_text

KEY = "data.questions.vqav2"


def load(config: DataConfig, split: str) -> Table:
    """One row per question; rows about one image share its `image_id`. A question without an
    annotation, as in the test files, has no answer.
    """
    source = config.questions.vqav2
    questions, annotations, folder = (
        path_of_split(getattr(source, name), split, f"{KEY}.{name}")
        for name in ("questions", "annotations", "images")
    )
    prefix, key = source.prefix.get(split, ""), f"{KEY}.questions.{split}"
    parse = partial(_rows, questions, annotations, folder, prefix)
    files, cache_dir = [questions, annotations], config.cache_dir
    return parsed_table(f"vqav2 {split}", COLUMNS, parse, files, key, cache_dir, folder, [prefix])


def _rows(
    questions: Path, annotations: Path, folder: Path, prefix: str
) -> Iterator[dict | SkippedEntry]:
    annotated = _Annotations(read_json(annotations, f"{KEY}.annotations", "annotations"))
    rows = QuestionRows()
    for number, entry in enumerate(read_json(questions, f"{KEY}.questions", "questions")):
        name = f"{questions.stem}-{number}"
        if not isinstance(entry, dict):
            yield SkippedEntry(name, "not an object")
            continue
        image, annotation = id_text(entry.get("image_id")), annotated.of(entry)
        path = folder / file_name(image, prefix) if image else None
        name = id_text(entry.get("question_id")) or name
        question, kind = entry.get("question"), annotation.get("answer_type")
        yield rows.row(name, question, answer_texts(annotation), kind, path)


def file_name(image_id: str, prefix: str) -> str:
    """COCO's name of an image; an id that is already a name is kept."""
    if has_suffix(image_id):
        return image_id
    name = image_id.zfill(12) if image_id.isdecimal() else image_id
    return f"{name if name.startswith(prefix) else prefix + name}.jpg"


class _Annotations:
    """Annotations by question and image: ids of questions repeat where files were joined."""

    def __init__(self, entries: list):
        self._waiting = defaultdict(deque)
        for entry in entries:
            if isinstance(entry, dict):
                self._waiting[_key(entry)].append(entry)

    def of(self, question: dict) -> dict:
        """The annotation of a question, or an empty one; equal keys are taken in order."""
        number, image = _key(question)
        waiting = self._waiting.get((number, image)) or self._waiting.get((number, ""))
        if not waiting or number is None:
            return {}
        return waiting.popleft() if len(waiting) > 1 else waiting[0]


def _key(entry: dict) -> tuple[str | None, str]:
    image = id_text(entry.get("image_id"))
    return id_text(entry.get("question_id")), file_name(image, "") if image else ""
