"""What is measured on the test split, and of frozen encoders before any head is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_lib.config.base import NonEmpty, Positive, RepoPath, Section
from edge_lib.config.modalities import ModalityName
from edge_lib.config.modality import Layer
from edge_lib.config.search import Labels, Prompts


class ContrastConfig(Section):
    """Pictures beside nearly right captions, as in Winoground, SugarCrepe or ARO."""

    file: RepoPath = Field(description="json or jsonl")
    images: RepoPath = Field(description="the folder of the pictures that the file names")


class EvaluateConfig(Section):
    """Dims and ranks of retrieval, intervals, near misses, classes, the t-SNE figure."""

    dims: list[Positive] | None = Field(None, description="loss.dims if null")
    ks: Annotated[list[Positive], NonEmpty] = [1, 5, 10]
    bootstrap: Positive = Field(1000, description="resamples of an interval")
    contrasts: dict[str, ContrastConfig] = Field({}, description="a set's name -> its files")
    classes: Literal["captions"] | Labels | None = Field(
        None, description="names for zero-shot classification; captions: the table's distinct ones"
    )
    templates: Prompts = Field(["{}"], description="texts that a class's name is put in")
    probe_split: str | None = Field(
        None, description="the split whose classes a linear probe and nearest neighbours read"
    )
    tsne_rows: Positive = 400
    tsne_perplexity: Annotated[float, Field(gt=1)] = 30.0

    @model_validator(mode="after")
    def _probe_has_classes(self):
        if self.probe_split and not self.classes:
            raise ValueError("probe_split needs classes")
        return self


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
