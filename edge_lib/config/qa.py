"""Decoders that answer questions about images."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from edge_lib.config.base import NonEmpty, Positive, Section
from edge_lib.config.train import TrainConfig


class DecoderConfig(Section):
    """A decoder. Steps, latent, update and supervision belong to the recursive decoder."""

    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    norm: Literal["pre", "post"] = "pre"
    inner_steps: Positive = 4
    outer_steps: Positive = Field(1, description="rounds; only the last one has gradients")
    latent: bool = Field(True, description="a latent row z beside each answer row y")
    update: Literal["concat", "additive"] = Field(
        "concat", description="z in rows of its own, or added to y as published"
    )
    deep_supervision: bool = Field(False, description="a loss, with gradients, in every round")
    lr: PositiveFloat | None = Field(None, description="qa.train.lr if null")

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 2 x heads {self.heads}")
        return self


class CurriculumConfig(Section):
    """Kinds of question that the first steps train on."""

    kinds: Annotated[list[str], NonEmpty]
    steps: Positive


class QAConfig(Section):
    """Decoders trained on questions about images, over the vision head of a frozen aligner."""

    use_trm: bool | None = Field(
        None, description="true: recursive only; false: plain only; null: both"
    )
    plain: DecoderConfig = DecoderConfig(layers=4)
    trm: DecoderConfig = DecoderConfig(layers=2)
    vision: bool = Field(True, description="false: a control that reads the question alone")
    scenes: Positive | None = Field(None, description="number of training images; all if null")
    questions_per_image: Positive = Field(8, description="in a batch: they share a prefix")
    curriculum: CurriculumConfig | None = None
    vocab_size: Positive = 512
    max_answer: Positive = Field(6, description="tokens, with the end token")
    test_steps: list[Positive] = Field(
        [], description="other numbers of inner steps to test a trained recursive decoder with"
    )
    train: TrainConfig = TrainConfig()

    @property
    def decoders(self) -> dict[str, DecoderConfig]:
        """The decoders to train, by name."""
        if self.use_trm is None:
            return {"plain": self.plain, "trm": self.trm}
        return {"trm": self.trm} if self.use_trm else {"plain": self.plain}

    def train_config(self, decoder: str) -> TrainConfig:
        """`train`, with the decoder's learning rate if it has one of its own."""
        return self.train.model_copy(update={"lr": self.decoders[decoder].lr or self.train.lr})
