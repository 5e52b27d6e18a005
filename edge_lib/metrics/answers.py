"""Correctness of answers: exact match, token F1 and VQAv2 accuracy.

Exact match and F1 follow SQuAD's evaluation (Rajpurkar et al. 2016): both texts are lower-cased and
stripped of punctuation and articles; of several references, the best match counts. Two limits: F1
ignores word order ("two three" scores 1.0 against "three two"), and a sign is punctuation, so that
-2 equals 2.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from edge_lib.metrics.bootstrap import bootstrap_interval

_SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)

# VQAv2's evaluation restores the apostrophes of these before it compares
_CONTRACTIONS = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
    how'll how's i'd i'm i've isn't it'd it'll let's ma'am might've mightn't must've mustn't needn't
    o'clock oughtn't shan't she'd should've shouldn't somebody'd someone'd someone's something'd
    that'd that's there'd there're there's they'd they'll they're they've 'twas wasn't we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'll who's who've why'll
    why're why's won't would've wouldn't y'all you'd you'll you're you've
""".split()  # noqa: SIM905

_APOSTROPHES = {word.replace("'", ""): word for word in _CONTRACTIONS}

_NUMBERS = ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_NUMERALS = dict(zip(_NUMBERS, ["0", *map(str, range(10))], strict=True)) | {"ten": "10"}

_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def normalise(text: str) -> str:
    """Text as SQuAD's script compares it: lower case, no punctuation or articles, single spaces.

    A text of nothing else (the letter a, "?!") keeps them, or it would equal an empty answer.
    """
    words = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_SQUAD_PUNCTUATION)).split()
    return " ".join(words or text.lower().split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1.0 if the normalised answer equals one of the normalised references, else 0.0."""
    return float(normalise(answer) in map(normalise, references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Highest token F1 of the answer against any of the references."""
    return max(_f1(normalise(answer).split(), normalise(r).split()) for r in references)


def _f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    shared = (Counter(answer) & Counter(reference)).total()
    return 2 * shared / (len(answer) + len(reference))


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQAv2 accuracy: min(1, matching references / 3), averaged over leaving each reference out.

    Ported from the official evaluation (Antol et al. 2015; visualqa.org/evaluation). ValueError for
    fewer than two references.
    """
    if len(references) < 2:
        raise ValueError("vqa_accuracy needs several references; use exact_match for one")
    answer, references = vqa_normalise(answer), [r.strip() for r in references]
    if len(set(references)) > 1:  # the official script leaves unanimous references unchanged
        references = [_vqa_punctuation(r) for r in references]
    matches = np.array([reference == answer for reference in references])
    others = matches.sum() - matches
    return float(np.minimum(1, others / 3).mean())


def vqa_normalise(text: str) -> str:
    """Text as VQAv2's script compares it: no punctuation or articles, number words as digits,
    contractions with their apostrophes.
    """
    words = (_NUMERALS.get(word, word) for word in _vqa_punctuation(text).lower().split())
    return " ".join(
        _APOSTROPHES.get(word, word) for word in words if word not in ("a", "an", "the")
    )


def _vqa_punctuation(text: str) -> str:
    text = cleaned = text.replace("\n", " ").replace("\t", " ").strip()
    has_thousands = re.search(r"\d,\d", text) is not None
    for mark in _VQA_PUNCTUATION:
        next_to_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if next_to_space or has_thousands else " ")
    return re.sub(r"\.(?!\d)", "", cleaned)


MEASURES: dict[str, Callable[[str, Sequence[str]], float]] = {"em": exact_match, "f1": token_f1}


def score_answers(
    answers: Sequence[str], references: Sequence[Sequence[str]], kinds: Sequence[str], rows
) -> pd.DataFrame:
    """One row per question: row, kind, answer, reference (the first), em, f1, and vqa for questions
    with several references, if there are any. A question whose references are all blank has NaN,
    which `by_kind` leaves out.
    """
    references = [[text for text in texts if text and text.strip()] for texts in references]
    several = any(len(texts) > 1 for texts in references)
    columns = ["row", "kind", "answer", "reference", *MEASURES, *["vqa"] * several]
    records = []
    for answer, texts, kind, row in zip(answers, references, kinds, rows, strict=True):
        scores = {name: measure(answer, texts) for name, measure in MEASURES.items() if texts}
        if len(texts) > 1:
            scores["vqa"] = vqa_accuracy(answer, texts)
        question = {"row": row, "kind": kind, "answer": answer, "reference": (texts or [""])[0]}
        records.append(question | scores)
    return pd.DataFrame(records, columns=columns)


def by_kind(
    scored: pd.DataFrame, groups: np.ndarray, sets: dict[str, Sequence[str]], bootstrap: int = 0
) -> pd.DataFrame:
    """Mean of each measure for each kind of question and each of `sets` (name -> kinds), with 95%
    bootstrap intervals over groups.

    groups (rows of the table,): the group of each table row. bootstrap: number of resamples.
    Columns: kind, measure, value, low, high, questions.
    """
    measures = [name for name in (*MEASURES, "vqa") if name in scored]
    kind_sets = {kind: [kind] for kind in sorted(set(scored.kind))} | sets
    records = []
    for name, kinds in kind_sets.items():
        for measure in measures:
            part = scored[scored.kind.isin(kinds) & scored[measure].notna()]
            if len(part):
                values = part[measure].to_numpy()
                interval = bootstrap_interval(values, groups[part.row], bootstrap)
                records.append((name, measure, values.mean(), *interval, len(values)))
    columns = ["kind", "measure", "value", "low", "high", "questions"]
    return pd.DataFrame(records, columns=columns)
