"""A language model over an aligner: projectors, prefix sources, training stages."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_lib.config.base import Positive, Section
from edge_lib.config.language import LanguageConfig
from edge_lib.config.train import TrainConfig


class ProjectorConfig(Section):
    """From an aligner's vectors to soft tokens of the language model."""

    kind: Literal["mlp", "clip_mlp", "tokens", "sequence"] = "sequence"
    tokens: Positive = Field(1, description="soft tokens made of each vector")


ORDER = ("projector", "lora")  # of stages


class VLMConfig(Section):
    """A language model on an aligner: projectors first, then projectors and adapters."""

    language: LanguageConfig
    streams: dict[Literal["image", "audio"], Literal["vision", "audio", "fused"]] = Field(
        {"image": "vision"}, description="what takes the place of <image> and of <audio>"
    )
    fusion: Literal["concat", "cross_attention", "gated"] | None = Field(
        None, description="of stream `fused`: a strategy that 02 trained"
    )
    projector: ProjectorConfig = ProjectorConfig()
    system: str | None = Field(None, description="system prompt; the template's own if null")
    max_length: Positive = Field(1024, description="tokens of a conversation, soft ones included")
    max_new_tokens: Positive = 64
    stages: Annotated[dict[Literal["projector", "lora"], TrainConfig], Field(min_length=1)] = {
        "projector": TrainConfig()
    }

    @model_validator(mode="after")
    def _streams_make_sense(self):
        fused = "fused" in self.streams.values()
        if fused != (self.fusion is not None):
            raise ValueError("a stream `fused` needs vlm.fusion, and no other does")
        if fused and self.streams != {"image": "fused"}:
            raise ValueError(
                "what is fused takes the place of <image>, and there is no other stream"
            )
        if self.streams.get("image") == "audio" or self.streams.get("audio") == "vision":
            raise ValueError("<image> stands for vision, <audio> for audio")
        return self

    @model_validator(mode="after")
    def _stages_can_be_trained(self):
        if "lora" in self.stages and self.language.lora is None:
            raise ValueError("stages.lora trains adapters: give language.lora")
        sharded = [stage for stage in self.stages.values() if stage.sharding == "fsdp2"]
        if sharded and (self.language.quantize or self.language.device_map is not None):
            raise ValueError("sharding fsdp2 needs language.quantize and device_map to be null")
        if any(stage.ema for stage in sharded):
            raise ValueError("sharding fsdp2 needs ema to be null: rank 0 keeps its shard alone")
        self.stages = {name: self.stages[name] for name in ORDER if name in self.stages}
        return self
