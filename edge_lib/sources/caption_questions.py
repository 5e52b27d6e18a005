"""Generic questions about the images of any table, with their captions as answers."""

from datasets import Dataset, concatenate_datasets

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources import load_table

QUESTIONS = ("What is in this image?", "Describe this image.")


def load(config: DataConfig, split: str) -> Table:
    """The questions about the images of a split of `data.source`."""
    return caption_questions(load_table(config, split))


def caption_questions(table: Table) -> Table:
    """Each of QUESTIONS about each row."""
    answers = [[] for _ in range(len(table))]
    for caption, row in zip(table.captions, table.caption_rows, strict=True):
        answers[row].append(caption)
    images = table.image_index.astype(str)  # ids may repeat
    replaced = {"id", "texts", "question", "answers", "kind", "image_id"}
    bare = table.dataset.remove_columns([*replaced & set(table.dataset.column_names)])
    parts = []
    for number, question in enumerate(QUESTIONS):
        # only rows of the first question hold the image; the others name it, so nothing is copied
        part = bare.remove_columns([*{"image"} & {*bare.column_names}]) if number else bare
        new = {
            "id": [f"{name}-{number}" for name in table.ids],
            "image_id": images,
            "question": [question] * len(table),
            "answers": answers,
            "kind": ["caption"] * len(table),
        }
        kept = [part] if part.column_names else []
        parts.append(concatenate_datasets([*kept, Dataset.from_dict(new)], axis=1))
    rows = concatenate_datasets(parts)
    return Table(rows, f"questions of {table.name}", f"{table.fingerprint}-questions")
