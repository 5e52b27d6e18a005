"""What is measured on the test split."""

from typing import Annotated

from pydantic import Field

from edge_lib.config.base import NonEmpty, Positive, RepoPath, Section


class ContrastConfig(Section):
    """Pictures beside nearly right captions, as in Winoground, SugarCrepe or ARO."""

    file: RepoPath = Field(description="json or jsonl")
    images: RepoPath = Field(description="the folder of the pictures that the file names")


class EvaluateConfig(Section):
    """Dims and ranks of retrieval, resamples of intervals, near-misses, the t-SNE figure."""

    dims: list[Positive] | None = Field(None, description="loss.dims if null")
    ks: Annotated[list[Positive], NonEmpty] = [1, 5, 10]
    bootstrap: Positive = Field(1000, description="resamples of an interval")
    contrasts: dict[str, ContrastConfig] = Field({}, description="a set's name -> its files")
    tsne_rows: Positive = 400
    tsne_perplexity: Annotated[float, Field(gt=1)] = 30.0
