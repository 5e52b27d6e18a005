"""What question files have in common: ids, answers and file names in several forms."""

from collections.abc import Mapping
from pathlib import Path

from edge_lib.sources.entries import encodable
from edge_lib.sources.files import SUFFIXES

COLUMNS = ("id", "image_id", "image", "question", "answers", "kind", "group")


class QuestionRows:
    """Makes rows of questions; those about one image file share a group."""

    def __init__(self):
        self._groups: dict[str, int] = {}

    def row(
        self, name: str, question: object, answers: list[str], kind: object, image: Path | None
    ) -> dict:
        """A row; a question that is no text is null."""
        path = str(image) if image else None
        return {
            "id": name,
            "image_id": path,
            "image": {"bytes": None, "path": path} if path else None,
            "question": encodable(question) if isinstance(question, str) else None,
            "answers": answers,
            "kind": encodable(kind) if isinstance(kind, str) else None,
            "group": self._groups.setdefault(path, len(self._groups)) if path else None,
        }


def id_text(value: object) -> str | None:
    """An id that is a text or a number as a text; None if it is neither."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_id = isinstance(value, str | int) and not isinstance(value, bool)
    return encodable(str(value).strip()) or None if is_id else None


def answer_texts(entry: Mapping) -> list[str]:
    """The reference answers of an entry: texts or numbers, alone or in objects."""
    keys = "answers", "multiple_choice_answer", "answer"
    answers = next((entry[key] for key in keys if entry.get(key) not in (None, [])), [])
    answers = answers if isinstance(answers, list) else [answers]
    texts = [a.get("answer") if isinstance(a, dict) else a for a in answers]
    return [encodable(str(text)) for text in texts if isinstance(text, str | int | float)]


def has_suffix(image_id: str) -> bool:
    """Whether an image's id is the name of its file."""
    return Path(image_id).suffix.lower() in SUFFIXES["image"]
