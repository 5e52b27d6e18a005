"""The contrastive loss."""

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, model_validator

from edge_lib.config.base import Positive, Section
from edge_lib.config.modalities import ModalityName
from edge_lib.config.registry import LOSSES, one_of


class LossConfig(Section):
    """A loss over Matryoshka sizes. The largest dim is the width of the shared embedding."""

    kind: Annotated[str, one_of(LOSSES)] = "info_nce"
    pairs: list[tuple[ModalityName, ModalityName]] | None = Field(None, description="null: all")
    pair_weights: list[float] | None = None
    dims: list[Positive] = [256, 128, 64, 32, 16, 8]
    weights: list[float] | None = Field(None, description="of dims; 1 each if null")
    sample_single_dim: bool = Field(False, description="use one of dims in each step, at random")
    chunk: Positive | None = Field(None, description="rows of the similarity matrix at a time")
    temperature: PositiveFloat = Field(
        0.07, description="initial 1/logit_scale; 0.1 if kind is sigmoid and it is not given"
    )
    bias: float = Field(-10.0, description="initial bias of the logits, if kind is sigmoid")

    @model_validator(mode="before")
    @classmethod
    def _start_of_siglip(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "sigmoid":
            return {"temperature": 0.1} | values
        return values

    @model_validator(mode="after")
    def _dims_match_weights(self):
        if not self.dims or len(set(self.dims)) != len(self.dims):
            raise ValueError("dims must be a list of different sizes")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(f"{len(self.weights)} weights for {len(self.dims)} dims")
        return self

    @model_validator(mode="after")
    def _pairs_match_weights(self):
        if self.pairs is not None:
            if not self.pairs or len({frozenset(pair) for pair in self.pairs}) != len(self.pairs):
                raise ValueError("pairs must be a list of different pairs")
            if any(a == b for a, b in self.pairs):
                raise ValueError("a pair needs two different modalities")
        if self.pair_weights and len(self.pair_weights) != len(self.pairs or ()):
            raise ValueError(
                f"{len(self.pair_weights)} pair_weights for {len(self.pairs or ())} pairs"
            )
        return self
