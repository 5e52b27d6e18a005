"""A frozen encoder and the head trained on it."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Strict, model_validator

from edge_lib.config.base import Positive, Section
from edge_lib.config.registry import POOLERS, one_of

Layer = Annotated[int, Strict()]


def _whole_numbers(value):
    numbers = value if isinstance(value, list) else [value]
    if value is not None and (not numbers or any(type(number) is not int for number in numbers)):
        raise ValueError("expected a whole number or a list of them, such as -2 or [-2, -1]")
    return value


Layers = Annotated[int | list[int] | None, BeforeValidator(_whole_numbers)]


class EncoderConfig(Section):
    """A frozen encoder. Everything that its outputs depend on is a key of this section, the only
    config that encoders get; the fingerprint of a feature store covers all of it.
    """

    encoder: str = Field(description="a shipped name, a local folder, or a hub name")
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    layer: Layers = Field(
        None,
        description="as in transformers' hidden_states: 0 the embeddings, -1 the last block's, -2 "
        "as in LLaVA; null: the model's own output",
    )
    merge_layers: Literal["mean", "concat"] = Field("mean", description="of a list of layers")
    tokens: Literal["all", "patch", "cls"] = Field(
        "all", description="patch: without class and register tokens; cls: the class token alone"
    )
    pooled: Literal["mean", "cls", "cls_mean"] | None = Field(
        None,
        description="mean: of the tokens but the class token; cls_mean: both, concatenated; null: "
        "the model's own, or with layer the mean",
    )

    @property
    def chooses_output(self) -> bool:
        """Whether it names layers, tokens or a pooled vector other than the encoder's own."""
        names = ("layer", "tokens", "pooled")
        return any(
            getattr(self, name) != EncoderConfig.model_fields[name].default for name in names
        )


class ModalityConfig(EncoderConfig):
    """An encoder, and the pooler, adapter and projection trained on its outputs."""

    augment: bool = Field(False, description="random crops; needs features.online")
    pooler: Annotated[str, one_of(POOLERS)] = "pooled"
    window: Positive = Field(1, description="pooler tokens averages squares of this side")
    num_latents: Positive = 8
    num_layers: Positive = 1
    num_heads: Positive = 4
    adapter: Literal["mlp", "linear"] = Field(
        "mlp", description="before the projection; linear: none, for a few hundred rows"
    )
    width: Positive = Field(256, description="of the pooler and of the MLP adapter")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    head: Literal["pooled", "maxsim"] = Field(
        "pooled", description="an embedding of one vector, or of a vector for each token (MaxSim)"
    )

    @property
    def encoder_config(self) -> EncoderConfig:
        """The encoder's keys alone."""
        return EncoderConfig(**{name: getattr(self, name) for name in EncoderConfig.model_fields})

    @property
    def varies_in_length(self) -> bool:
        """Whether the pooler gives a vector for each token, however many there are."""
        return self.pooler in ("tokens", "transformer")

    @property
    def keeps_tokens(self) -> bool:
        """Whether the pooler reads tokens rather than the encoder's own pooled vector."""
        return self.pooler != "pooled"

    @model_validator(mode="after")
    def _heads_divide_width(self):
        unit = {"attention": 1, "perceiver": 1, "transformer": 2}.get(self.pooler)
        if unit and self.width % (unit * self.num_heads):
            unit = "num_heads" if unit == 1 else f"{unit} x num_heads"
            raise ValueError(f"width {self.width} is not a multiple of {unit} {self.num_heads}")
        return self

    @model_validator(mode="after")
    def _maxsim_needs_several_vectors(self):
        if self.head == "maxsim" and self.pooler in ("pooled", "mean", "cls", "attention"):
            raise ValueError(
                f"head 'maxsim' needs a vector for each token, but pooler {self.pooler!r} gives "
                "one; use 'tokens', 'transformer' or 'perceiver'"
            )
        return self

    @model_validator(mode="after")
    def _pooler_has_its_token(self):
        if self.pooler == "cls" and self.tokens == "patch":
            raise ValueError("pooler 'cls' needs the class token; tokens=patch leaves it out")
        return self
