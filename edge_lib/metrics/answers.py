"""How right an answer is: exact match, token F1, and VQAv2's accuracy.

Exact match and F1 follow SQuAD's evaluation (Rajpurkar et al. 2016): both texts lose case,
punctuation and articles; of several references the best counts. Mind what that hides: F1 looks at a
bag of tokens, so "two three" has 1.0 against "three two", and articles go even where the answer is
the letter a.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from edge_lib.metrics.bootstrap import bootstrap_interval

_SQUAD_DROPS = str.maketrans("", "", string.punctuation)


# VQAv2's evaluation spells these out before it compares
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
    """As SQuAD's script: lower case, no punctuation, no articles, single spaces."""
    text = text.lower().translate(_SQUAD_DROPS)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1.0 if the answer is one of the references, after `normalise`."""
    return float(normalise(answer) in map(normalise, references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """The best F1 of the bags of tokens."""
    return max(_f1(normalise(answer).split(), normalise(r).split()) for r in references)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQAv2's: the mean, over each reference left out, of min(1, others that agree / 3).

    With its ten references, three that agree are enough. It needs several: with one, none is left
    to agree. After the official evaluation (Antol et al. 2015; visualqa.org/evaluation).
    """
    if len(references) < 2:
        raise ValueError("vqa_accuracy needs several references; use exact_match for one")
    answer, references = vqa_normalise(answer), [r.strip() for r in references]
    if len(set(references)) > 1:  # the official script leaves them as they stand where all agree
        references = [_vqa_punctuation(r) for r in references]
    agree = np.array([reference == answer for reference in references])
    others = agree.sum() - agree
    return float(np.minimum(1, others / 3).mean())


def vqa_normalise(text: str) -> str:
    """An answer without VQAv2's punctuation and articles, its number words and contractions spelt
    as the references are.
    """
    words = (_NUMERALS.get(word, word) for word in _vqa_punctuation(text).lower().split())
    return " ".join(
        _APOSTROPHES.get(word, word) for word in words if word not in ("a", "an", "the")
    )


def _vqa_punctuation(text: str) -> str:
    given = cleaned = text.replace("\n", " ").replace("\t", " ").strip()
    has_figures = re.search(r"\d,\d", given) is not None
    for mark in _VQA_PUNCTUATION:
        at_a_gap = f"{mark} " in given or f" {mark}" in given
        cleaned = cleaned.replace(mark, "" if at_a_gap or has_figures else " ")
    return re.sub(r"\.(?!\d)", "", cleaned)


MEASURES: dict[str, Callable[[str, Sequence[str]], float]] = {"em": exact_match, "f1": token_f1}


def score_answers(
    answers: Sequence[str], references: Sequence[Sequence[str]], kinds: Sequence[str], rows
) -> pd.DataFrame:
    """A line for each question: row, kind, answer, reference, em, f1, and vqa where there are
    several references."""
    records = []
    for answer, wanted, kind, row in zip(answers, references, kinds, rows, strict=True):
        scores = {name: measure(answer, wanted) for name, measure in MEASURES.items()}
        if len(wanted) > 1:
            scores["vqa"] = vqa_accuracy(answer, wanted)
        about = {"row": row, "kind": kind, "answer": answer, "reference": wanted[0]}
        records.append(about | scores)
    return pd.DataFrame(records)


def by_kind(
    scored: pd.DataFrame, groups: np.ndarray, sets: dict[str, Sequence[str]], bootstrap: int = 0
) -> pd.DataFrame:
    """Mean of each measure over each kind and each of `sets` (name -> kinds), with 95% intervals
    that resample whole groups. groups (rows of the table,). Columns: kind, measure, value, low,
    high, questions.
    """
    measures = [name for name in (*MEASURES, "vqa") if name in scored]
    named = {kind: [kind] for kind in sorted(set(scored.kind))} | sets
    records = []
    for name, kinds in named.items():
        for measure in measures:
            part = scored[scored.kind.isin(kinds) & scored[measure].notna()]
            if len(part):
                values = part[measure].to_numpy()
                interval = bootstrap_interval(values, groups[part.row], bootstrap)
                records.append((name, measure, values.mean(), *interval, len(values)))
    columns = ["kind", "measure", "value", "low", "high", "questions"]
    return pd.DataFrame(records, columns=columns)
