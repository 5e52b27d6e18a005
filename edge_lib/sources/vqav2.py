"""VQAv2 (Goyal et al. 2017): its question and annotation files, ten answers per question."""

from datasets import Dataset

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.files import fingerprint_files, path_of_split, read_json

KEY = "data.questions.vqav2"


def load(config: DataConfig, split: str) -> Table:
    """One row per question; rows about one image share its `image_id`."""
    source = config.questions.vqav2
    questions, annotations, folder = (
        path_of_split(getattr(source, name), split, f"{KEY}.{name}")
        for name in ("questions", "annotations", "images")
    )
    prefix = source.prefix.get(split, "")
    annotated = read_json(annotations, f"{KEY}.annotations", "annotations")
    by_question = {annotation["question_id"]: annotation for annotation in annotated}
    rows = []
    for question in read_json(questions, f"{KEY}.questions", "questions"):
        annotation = by_question.get(question["question_id"], {})
        path = folder / f"{prefix}{question['image_id']:012d}.jpg"
        rows.append(
            {
                "id": str(question["question_id"]),
                "image_id": str(question["image_id"]),
                "image": {"bytes": None, "path": str(path)},
                "question": question["question"],
                "answers": [answer["answer"] for answer in annotation.get("answers", [])],
                "kind": annotation.get("answer_type"),
                "group": question["image_id"],
            }
        )
    fingerprint = fingerprint_files([questions, annotations], str(folder), prefix)
    return Table(Dataset.from_list(rows), f"vqav2 {split}", fingerprint)
