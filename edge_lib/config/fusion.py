"""Fusions of several modalities."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_lib.config.base import Count, Modality, Positive, Section
from edge_lib.config.train import TrainConfig


class FusionConfig(Section):
    """One embedding from several modalities, trained on heads that stay as they are."""

    strategies: list[Literal["concat", "cross_attention", "gated"]] = ["cross_attention"]
    modalities: list[Modality] = ["vision", "audio"]
    target: Modality = "text"
    seeds: list[Count] = [0]
    width: Positive = 256
    num_latents: Positive = Field(8, description="of cross_attention: the length of its prefix")
    num_layers: Positive = 1
    num_heads: Positive = 4
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _modalities_make_sense(self):
        if len(set(self.modalities)) != len(self.modalities) or self.target in self.modalities:
            raise ValueError("modalities must differ, from each other and from the target")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self
