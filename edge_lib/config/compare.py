"""Comparing frozen encoders and their layers before any head is trained."""

from typing import Annotated

from pydantic import Field

from edge_lib.config.base import NonEmpty, Positive, Section
from edge_lib.config.modalities import ModalityName
from edge_lib.config.modality import Layer


class CandidatesConfig(Section):
    """The encoders and layers of one modality that are compared."""

    encoders: Annotated[list[str], NonEmpty] | None = Field(
        None, description="names as in the modality's section, whose encoder it is if null"
    )
    layers: Annotated[list[Layer], NonEmpty] | None = Field(None, description="all if null")


class CompareConfig(Section):
    """On which rows encoders are compared, and which of them."""

    split: str = "val"
    rows: Annotated[int, Field(ge=4, le=5000)] = Field(1000, description="drawn at random")
    k: Positive = Field(10, description="nearest neighbours of a row")
    candidates: dict[ModalityName, CandidatesConfig] = Field(
        {}, description="by modality; its own encoder with all layers where it is not named"
    )
