"""Searching a table: queries, labels without training, near-duplicates, the map."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from edge_lib.config.base import NonEmpty, Positive, Section
from edge_lib.config.modalities import ModalityName

Text = Annotated[str, Field(pattern=r"\S")]
Texts = Annotated[
    list[Text],
    NonEmpty,
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
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
    labels: Annotated[list[Text], Field(min_length=2)] | None = Field(
        None, description="one of them is given to each item, without training"
    )
    prompts: Annotated[list[Text], NonEmpty] = Field(
        ["{}"], description="texts that a label is put in; their embeddings are averaged"
    )
    duplicates: Annotated[float, Field(gt=-1, le=1)] = Field(
        0.98, description="cosine from which two items are near-duplicates"
    )
    map_points: Annotated[int, Field(ge=10)] = Field(
        12_000, description="most points of the map; more are drawn at random"
    )

    @model_validator(mode="after")
    def _prompts_take_a_label(self):
        if wrong := [prompt for prompt in self.prompts if prompt.count("{}") != 1]:
            raise ValueError(f"prompts: {wrong[0]!r} needs one {{}} in place of the label")
        return self
