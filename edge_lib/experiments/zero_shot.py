"""Labels of pictures and clips: from class names in prompts, and read from other rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.config import ConfigError, EvaluateConfig
from edge_lib.data.table import Table
from edge_lib.metrics.classification import classification_scores, knn_labels, linear_probe
from edge_lib.metrics.flat_names import metrics_by_dim
from edge_lib.models import Aligner

BATCH = 256  # prompts embedded at once
MAX_CLASSES = 10_000


def class_names(config: EvaluateConfig, table: Table) -> list[str]:
    """The classes that the config names, or with `captions` the table's distinct captions, in their
    order; empty without any. ConfigError if they are no classes: one alone, or too many.
    """
    if config.classes != "captions":
        return config.classes or []
    names = {}  # the first spelling of each
    for caption in table.texts("texts"):
        names.setdefault(caption.casefold(), caption)
        if len(names) > MAX_CLASSES:
            break
    if not 2 <= len(names) <= MAX_CLASSES:
        count = "more" if len(names) > MAX_CLASSES else len(names)
        raise ConfigError(
            f"evaluate.classes: captions: {table.name} has {count} distinct captions; expected "
            f"2 to {MAX_CLASSES:,}, or a list of names"
        )
    return [*names.values()]


def known_labels(table: Table, labels: Sequence[str]) -> np.ndarray:
    """(N,) the number of the label that a row's captions name; -1 if they name none or several."""
    numbers = {label.casefold(): number for number, label in enumerate(labels)}
    pattern = "|".join(map(re.escape, sorted(numbers, key=len, reverse=True))) or "(?!)"
    matcher = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)")
    named = [set() for _ in range(len(table))]
    texts = table.texts("texts")
    for row, caption in zip(texts.rows, texts, strict=True):
        named[row] |= {numbers[label] for label in matcher.findall(caption.casefold())}
    return np.array([min(row) if len(row) == 1 else -1 for row in named])


def prompt_embeddings(aligner: Aligner, labels: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """(labels, prompts, D) the embedding of each label in each prompt, whose {} it replaces.
    ConfigError for an aligner without text or with a vector for each token.
    """
    if "text" not in aligner.modalities:
        raise ConfigError("labels from their names: the aligner has no text")
    aligner.check_pooled("classification by prompts")
    texts = [prompt.replace("{}", label) for label in labels for prompt in prompts]
    parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    embedded = torch.cat([aligner.embed("text", part).cpu() for part in parts])
    return embedded.unflatten(0, (len(labels), -1))


def nearest_labels(
    prompts: Tensor, embeddings: Tensor, dim: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the number of the label nearest to each embedding (N, D), and (N,) their cosine, over
    the first `dim` columns. A label is the mean of its unit prompts (labels, prompts, D).
    """
    labels = F.normalize(prompts[..., :dim], dim=2).mean(1)
    cosines = F.normalize(embeddings[:, :dim], dim=1) @ F.normalize(labels, dim=1).T
    return cosines.argmax(1).numpy(), cosines.amax(1).numpy()


@dataclass(frozen=True)
class LabelledItems:
    """Embeddings (N, D) of one modality, their labels (N,), negative if not known, and groups."""

    embeddings: Tensor
    labels: np.ndarray
    groups: np.ndarray


def labelled_items(
    table: Table, embeddings: dict[str, Tensor], rows: dict[str, np.ndarray], names: Sequence[str]
) -> dict[str, LabelledItems]:
    """The pictures and clips of `embed_table` with the labels that their captions name. ConfigError
    if no caption names exactly one.
    """
    known = known_labels(table, names)
    if not (known >= 0).any():
        raise ConfigError(
            f"evaluate.classes: no row of {table.name} has captions that name exactly one of "
            f"{', '.join(names[:5])}{', ...' * (len(names) > 5)}"
        )
    return {
        name: LabelledItems(embeddings[name], known[own], table.groups[own])
        for name, own in rows.items()
        if name != "text"
    }


def zero_shot_table(
    prompts: Tensor, items: dict[str, LabelledItems], dims: Sequence[int], bootstrap: int = 0
) -> pd.DataFrame:
    """How often the nearest label is the known one, for each modality and dim.

    prompts: of `prompt_embeddings`. Columns: modality, method, dim, those of
    `classification_scores`, chance (1 / labels).
    """
    records = []
    for name, own in items.items():
        for dim in dims:
            given, _ = nearest_labels(prompts, own.embeddings, dim)
            scores = classification_scores(own.labels, given, own.groups, bootstrap)
            record = {"modality": name, "method": "zero_shot", "dim": dim} | scores
            records.append(record | {"chance": 1 / len(prompts)})
    return pd.DataFrame(records)


def probe_table(
    train: dict[str, LabelledItems],
    test: dict[str, LabelledItems],
    dims: Sequence[int],
    bootstrap: int = 0,
) -> pd.DataFrame:
    """The same for labels by a linear probe (linear_probe) and by nearest neighbours (knn) that
    read them from the embeddings of another table, without chance.
    """
    records = []
    for name in train.keys() & test.keys():
        for dim in dims:
            a, b = train[name].embeddings[:, :dim], test[name].embeddings[:, :dim]
            labels, own = train[name].labels, test[name]
            predicted = {
                "linear_probe": linear_probe(a, labels, b, train[name].groups),
                "knn": knn_labels(a, labels, b),
            }
            for method, given in predicted.items():
                scores = classification_scores(own.labels, given, own.groups, bootstrap)
                records.append({"modality": name, "method": method, "dim": dim} | scores)
    return pd.DataFrame(records)


def label_metrics(table: pd.DataFrame) -> dict[str, float]:
    """By flat name: zero_shot.vision.accuracy (full dim), zero_shot.vision.accuracy.dim64, ..."""
    return metrics_by_dim(table, lambda row: f"{row.method}.{row.modality}.accuracy", "accuracy")
