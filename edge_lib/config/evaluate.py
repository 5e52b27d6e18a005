"""What is measured on the test split."""

from typing import Annotated

from pydantic import Field

from edge_lib.config.base import Positive, Section


class EvaluateConfig(Section):
    """Sizes, ranks and pictures of an evaluation."""

    dims: list[Positive] | None = Field(None, description="loss.dims if null")
    ks: list[Positive] = [1, 5, 10]
    bootstrap: Positive = Field(1000, description="resamples of an interval")
    tsne_rows: Positive = 400
    tsne_perplexity: Annotated[float, Field(gt=1)] = 30.0
