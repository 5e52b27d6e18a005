"""Searching a table: queries, labels without training, near-duplicates, the map."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from edge_lib.config.base import NonEmpty, Positive, Section
from edge_lib.config.modalities import ModalityName

Text = Annotated[str, Field(pattern=r"\S")]
Texts = Annotated[
    list[Text],
    NonEmpty,
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


def _takes_a_label(prompt: str) -> str:
    if prompt.count("{}") != 1:
        raise ValueError(f"{prompt!r} needs one {{}} in place of the label")
    return prompt


def _differ(labels: list[str]) -> list[str]:
    names = [label.casefold() for label in labels]
    if twice := [label for label in labels if names.count(label.casefold()) > 1]:
        raise ValueError(f"{twice[0]!r} stands there twice")
    return labels


Prompts = Annotated[list[Annotated[Text, AfterValidator(_takes_a_label)]], NonEmpty]
Labels = Annotated[list[Text], Field(min_length=2), AfterValidator(_differ)]
Items = dict[ModalityName, Texts]


class QueryConfig(Section):
    """Items whose embeddings are added and subtracted: texts, and files or ids of the table's rows.

    `{plus: {text: a red three}}`, `{plus: {vision: [a.png, b.png]}, minus: {text: red}}`
    """

    plus: Annotated[Items, NonEmpty]
    minus: Items = {}


class SearchConfig(Section):
    """What is asked of a table."""

    split: str = "test"
    gallery: ModalityName = Field("vision", description="the items that are searched")
    queries: list[QueryConfig] = []
    top: Positive = Field(5, description="results of a query")
    labels: Labels | None = Field(
        None, description="one of them is given to each item, without training"
    )
    prompts: Prompts = Field(
        ["{}"], description="texts that a label is put in; their embeddings are averaged"
    )
    duplicates: Annotated[float, Field(gt=-1, le=1)] = Field(
        0.98, description="cosine from which two items are near-duplicates"
    )
    map_points: Annotated[int, Field(ge=10)] = Field(
        12_000, description="most points of the map; more are drawn at random"
    )
