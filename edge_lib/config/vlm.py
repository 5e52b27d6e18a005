"""A language model over an aligner: projectors, prefix sources, training stages."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_lib.config.base import NonEmpty, Positive, Section
from edge_lib.config.fusion import FusionName
from edge_lib.config.language import LanguageConfig
from edge_lib.config.train import TrainConfig

STAGES = ("projector", "lora")  # in the order of training
# of each kind of projector: an embedding (B, 1, D) of the aligner, or a sequence (B, L, D)
INPUT_KINDS = {
    "mlp": "embedding",
    "clip_mlp": "embedding",
    "tokens": "embedding",
    "sequence": "sequence",
}


class ProjectorConfig(Section):
    """From an aligner's vectors to soft tokens of the language model."""

    kind: Literal[tuple(INPUT_KINDS)] = "sequence"
    tokens: Positive = Field(1, description="soft tokens made of each vector")


class VLMModelConfig(Section):
    """What a saved VLM is made of."""

    language: LanguageConfig
    prefix_sources: dict[Literal["image", "audio"], Literal["vision", "audio", "fused"]] = Field(
        {"image": "vision"}, description="the vectors in the place of <image> and of <audio>"
    )
    fusion: FusionName | None = Field(
        None, description="for source fused: one of the strategies that the aligner's run trained"
    )
    projector: ProjectorConfig = ProjectorConfig()
    system: str | None = Field(None, description="system prompt; null: the chat template's own")
    max_length: Positive = Field(1024, description="tokens of a conversation, with soft tokens")
    max_new_tokens: Positive = 64

    @model_validator(mode="after")
    def _sources_fit_placeholders(self):
        fused = "fused" in self.prefix_sources.values()
        if fused != (self.fusion is not None):
            raise ValueError("prefix source fused needs vlm.fusion, and no other source takes it")
        if fused and self.prefix_sources != {"image": "fused"}:
            raise ValueError("prefix source fused replaces <image> and must be the only source")
        own = {"image": "vision", "audio": "audio"}
        if not fused and not self.prefix_sources.items() <= own.items():
            raise ValueError("<image> takes source vision, <audio> takes source audio")
        return self


class VLMConfig(VLMModelConfig):
    """A VLM and its training: first the projectors, then projectors and adapters."""

    stages: Annotated[dict[Literal[STAGES], TrainConfig], NonEmpty] = {"projector": TrainConfig()}

    @property
    def model(self) -> VLMModelConfig:
        """The model's keys alone."""
        names = VLMModelConfig.model_fields
        return VLMModelConfig(**{name: getattr(self, name) for name in names})

    @model_validator(mode="after")
    def _stages_can_be_trained(self):
        if "lora" in self.stages and self.language.lora is None:
            raise ValueError("stages.lora trains adapters and needs language.lora")
        sharded = [stage for stage in self.stages.values() if stage.sharding == "fsdp2"]
        if sharded and (self.language.quantize or self.language.device_map is not None):
            raise ValueError("sharding fsdp2 needs language.quantize and device_map to be null")
        if any(stage.ema for stage in sharded):
            raise ValueError("sharding fsdp2 needs ema to be null: rank 0 averages its shard alone")
        self.stages = {name: self.stages[name] for name in STAGES if name in self.stages}
        return self
