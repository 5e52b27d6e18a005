"""Fusions of several modalities."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, model_validator

from edge_lib.config.base import Count, DropoutRate, Fraction, NonEmpty, Positive, Section
from edge_lib.config.modalities import ModalityName
from edge_lib.config.registry import FUSIONS, one_of
from edge_lib.config.train import TrainConfig

FusionName = Annotated[str, one_of(FUSIONS)]


class DamageConfig(Section):
    """Damage to features of training rows; each damaged item draws the strength of each kind."""

    share: Fraction = Field(0.1, description="of the rows, for each modality on its own")
    noise: NonNegativeFloat = Field(2.0, description="highest, in standard deviations; 0: none")
    dropped: DropoutRate = Field(0.8, description="highest share of tokens, in one run; 0: none")
    energy: Fraction = Field(0.1, description="lowest factor of what differs from the mean; 1: all")


class FusionConfig(Section):
    """Modules that fuse the outputs of an aligner's frozen heads into one embedding."""

    strategies: Annotated[list[FusionName], NonEmpty] = ["cross_attention"]
    modalities: Annotated[list[ModalityName], NonEmpty] = ["vision", "audio"]
    target: ModalityName = "text"
    seeds: Annotated[list[Count], NonEmpty] = [0]
    width: Positive = 256
    num_latents: Positive = Field(8, description="of cross_attention: the length of its prefix")
    num_layers: Positive = 1
    num_heads: Positive = 4
    modality_dropout: DropoutRate = Field(
        0.2, description="share of training rows that keep only one modality"
    )
    damage: DamageConfig | None = Field(
        None,
        description="of features in training, which then takes a degraded split's rows as well; "
        "null: whole rows alone",
    )
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _modalities_differ(self):
        if len(set(self.modalities)) != len(self.modalities) or self.target in self.modalities:
            raise ValueError("modalities must differ from each other and from the target")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self
