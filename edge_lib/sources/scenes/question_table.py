"""Questions about scenes as rows of `data.table.SCHEMA`."""

from collections.abc import Iterator, Sequence

from edge_lib.config import DataConfig, QuestionsConfig
from edge_lib.data.table import Table
from edge_lib.sources.generated import generated_path, read_generated
from edge_lib.sources.scenes.questions import BASIC, generate_questions
from edge_lib.sources.scenes.render import render, to_png
from edge_lib.sources.source import Source

VERSION = 1  # raise it whenever the same config gives different rows


def load(config: DataConfig, split: str) -> Table:
    """The questions of a split, generated on first use."""
    section = config.questions
    path = generated_path(config.cache_dir, "questions", section, VERSION, split)
    return read_generated(path, lambda: question_rows(section, split), f"questions {split}")


def question_rows(config: QuestionsConfig, split: str) -> Iterator[dict]:
    """Yield one row per question; the first row of each scene holds its image."""
    hops = config.test_hops if split == "test" else config.train_hops
    size = getattr(config, f"{split}_scenes")
    scenes = generate_questions(
        split, size, config.per_scene, config.max_objects, hops, config.seed
    )
    for number, (scene, questions) in enumerate(scenes):
        for index, question in enumerate(questions):
            yield {
                "id": f"{split}-{number:06d}-{index}",
                "image_id": f"{split}-{number:06d}",
                "image": None if index else to_png(render(scene, split)),
                "question": question.text,
                "answers": [question.answer],
                "kind": question.kind,
                "group": number,
            }


def kind_sets(kinds: Sequence[str]) -> dict[str, list[str]]:
    """The six basic kinds, and chains of any length."""
    kinds = sorted(set(kinds))
    chained = [kind for kind in kinds if kind.startswith("chain")]
    return {"basic": [kind for kind in kinds if kind in BASIC], "chained": chained}


SOURCE = Source(load, kind_sets=kind_sets)
