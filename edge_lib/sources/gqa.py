"""GQA (Hudson & Manning 2019): one answer per question; the kind is its structural type."""

from datasets import Dataset

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.files import fingerprint_files, path_of_split, read_json

KEY = "data.questions.gqa.questions"


def load(config: DataConfig, split: str) -> Table:
    """One row per question; rows about one image share its `image_id`."""
    source, image_numbers, rows = config.questions.gqa, {}, []
    path = path_of_split(source.questions, split, KEY)
    for name, question in read_json(path, KEY).items():
        image = question["imageId"]
        rows.append(
            {
                "id": name,
                "image_id": image,
                "image": {"bytes": None, "path": str(source.images / f"{image}.jpg")},
                "question": question["question"],
                "answers": [question["answer"]] if question.get("answer") else [],
                "kind": question.get("types", {}).get("structural"),
                "group": image_numbers.setdefault(image, len(image_numbers)),
            }
        )
    fingerprint = fingerprint_files([path], str(source.images))
    return Table(Dataset.from_list(rows), f"gqa {split}", fingerprint)
