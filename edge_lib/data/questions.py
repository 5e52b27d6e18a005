"""The questions that a table holds, with their answers."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edge_lib.data.row_items import RowItems


@dataclass
class Questions:
    """The questions of a table that have an answer, in the order of its rows."""

    rows: np.ndarray  # (M,) the row of each
    texts: list[str]
    answers: list[list[str]]  # one or several references each
    kinds: list[str]


def read_questions(table) -> Questions:
    """Every question of a table that is not empty and has an answer; others are skipped."""
    questions, answers = table.texts("question"), table.texts("answers")
    of_row = RowItems.group(np.arange(len(answers)), answers.rows, len(table))
    answered = of_row.counts[questions.rows] > 0
    table.skip_rows("no question", questions.missing_rows(len(table)))
    table.skip_rows("no answer", questions.rows[~answered])
    rows = questions.rows[answered]
    of_row = of_row.select(rows)
    references = answers.take(of_row.items)
    return Questions(
        rows,
        questions.take(np.flatnonzero(answered)),
        [references[start:stop] for start, stop in pairwise(of_row.starts.tolist())],
        [kind or "question" for kind in table.cells("kind", rows)],
    )
