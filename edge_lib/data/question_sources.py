"""Questions as rows of the one-table schema: about scenes, of VQAv2 and GQA, or made of captions.

Rows that ask about the same picture share its `image_id`; so the picture is encoded once.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from edge_lib.config import ConfigError, QuestionsConfig
from edge_lib.data import scenes
from edge_lib.data.questions import ask
from edge_lib.data.scene_table import to_png
from edge_lib.data.table import Table, fingerprint_files

ABOUT_CAPTIONS = ("What is in this image?", "Describe this image.")


def scene_questions(config: QuestionsConfig, split: str) -> Iterator[dict]:
    """Rows of a split's questions; a scene's first row holds its picture."""
    hops = config.test_hops if split == "test" else config.train_hops
    size = getattr(config, f"{split}_scenes")
    asked = ask(split, size, config.per_scene, config.max_objects, hops, config.seed)
    for number, (scene, questions) in enumerate(asked):
        for place, question in enumerate(questions):
            yield {
                "id": f"{split}-{number:06d}-{place}",
                "image_id": f"{split}-{number:06d}",
                "image": None if place else to_png(scenes.render(scene, split)),
                "question": question.text,
                "answers": [question.answer],
                "kind": question.kind,
                "group": number,
            }


def caption_questions(table: Table) -> Table:
    """Any table with captions, asked what is in each image: the captions are the answers."""
    answers = [[] for _ in range(len(table))]
    for caption, row in zip(table.captions, table.caption_rows, strict=True):
        answers[row].append(caption)
    replaced = {"id", "texts", "question", "answers", "kind", "image_id"}
    bare = table.dataset.remove_columns([*replaced & set(table.dataset.column_names)])
    parts = []
    for number, question in enumerate(ABOUT_CAPTIONS):
        # the first asks with the picture, the others by its name: nothing is copied
        part = bare.remove_columns("image") if number else bare
        new = {
            "id": [f"{name}-{number}" for name in table.ids],
            "image_id": table.ids,
            "question": [question] * len(table),
            "answers": answers,
            "kind": ["caption"] * len(table),
        }
        parts.append(concatenate_datasets([part, Dataset.from_dict(new)], axis=1))
    asked = concatenate_datasets(parts)
    return Table(asked, f"questions of {table.name}", f"{table.fingerprint}-asked")


def vqav2_questions(config: QuestionsConfig, split: str) -> Table:
    """VQAv2 (Goyal et al. 2017): its questions and annotations, ten answers each."""
    source = config.vqav2
    files = [_of(split, name, getattr(source, name)) for name in ("questions", "annotations")]
    folder, prefix = _of(split, "images", source.images), source.prefix.get(split, "")
    asked, annotations = _read(files[0], "questions"), _read(files[1], "annotations")
    answered = {about["question_id"]: about for about in annotations}
    rows = [
        {
            "id": str(q["question_id"]),
            "image_id": str(q["image_id"]),
            "image": {"bytes": None, "path": str(folder / f"{prefix}{q['image_id']:012d}.jpg")},
            "question": q["question"],
            "answers": [a["answer"] for a in answered.get(q["question_id"], {}).get("answers", [])],
            "kind": answered.get(q["question_id"], {}).get("answer_type"),
            "group": q["image_id"],
        }
        for q in asked
    ]
    return _table(rows, f"vqav2 {split}", files, str(folder), prefix)


def gqa_questions(config: QuestionsConfig, split: str) -> Table:
    """GQA (Hudson & Manning 2019): one answer each; the kind is the structural type."""
    source = config.gqa
    file = _of(split, "questions", source.questions)
    pictures = {}
    rows = [
        {
            "id": name,
            "image_id": about["imageId"],
            "image": {"bytes": None, "path": str(source.images / f"{about['imageId']}.jpg")},
            "question": about["question"],
            "answers": [about["answer"]] if about.get("answer") else [],
            "kind": about.get("types", {}).get("structural"),
            "group": pictures.setdefault(about["imageId"], len(pictures)),
        }
        for name, about in _read(file).items()
    ]
    return _table(rows, f"gqa {split}", [file], str(source.images))


def _of(split: str, what: str, named: dict[str, Path]) -> Path:
    if split not in named:
        raise ConfigError(f"data.questions: {what} has no {split!r}, only {sorted(named)}")
    if not named[split].exists():
        raise ConfigError(f"data.questions: {what}: no such file {named[split]}")
    return named[split]


def _read(path: Path, key: str | None = None):
    """A json file, or what it holds under a key."""
    try:
        content = json.loads(path.read_text())
        return content[key] if key else content
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not such a file: {error!r}") from None


def _table(rows: list[dict], name: str, files: list[Path], *facts: str) -> Table:
    return Table(Dataset.from_list(rows), name, fingerprint_files(files, *facts))
