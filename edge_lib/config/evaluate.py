"""What is measured on the test split."""

from typing import Annotated

from pydantic import Field

from edge_lib.config.base import Positive, Section


class EvaluateConfig(Section):
    dims: list[Positive] | None = Field(None, description="the loss's, if not named")
    ks: list[Positive] = [1, 5, 10]
    bootstrap: Positive = 1000
    tsne_rows: Positive = 400
    tsne_perplexity: Annotated[float, Field(gt=1)] = 30.0
