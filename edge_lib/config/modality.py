"""A frozen encoder and the head trained on it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_lib.config.base import Positive, Section


class ModalityConfig(Section):
    """A frozen encoder and the head trained on it."""

    encoder: str = Field(description="a shipped name, a local folder, or a hub name")
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    augment: bool = Field(False, description="random crops; needs features.online")
    pooler: Literal["pooled", "mean", "cls", "tokens", "attention", "perceiver"] = "pooled"
    window: Positive = Field(1, description="side of the squares that pooler tokens averages")
    num_latents: Positive = 8
    num_layers: Positive = 1
    num_heads: Positive = 4
    width: Positive = Field(256, description="of the pooler and of the MLP adapter")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.pooler in ("attention", "perceiver") and self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self
