"""A language model that reads soft prefixes, and the conversations it is trained on."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from edge_lib.config.base import Count, Positive, RepoPath, Section
from edge_lib.config.train import TrainConfig


def _numbered(devices: dict | None) -> dict | None:
    """Devices are numbers, also where json has made texts of them."""
    if not isinstance(devices, dict):
        return devices
    return {int(name) if str(name).isdigit() else name: size for name, size in devices.items()}


class LlavaConfig(Section):
    """LLaVA's json files by split ({"image", "conversations"}), and the images' folder."""

    files: dict[str, RepoPath]
    images: RepoPath


class InstructionsConfig(Section):
    """Open-Orca's columns (system_prompt, question, response) in Parquet or jsonl, by split."""

    files: dict[str, list[str]]


class ConversationsConfig(Section):
    """Conversations about images: made for scenes, or read; instructions without images beside."""

    source: Literal["scenes", "llava", "parquet"] = "scenes"
    train_scenes: Positive = 8000
    val_scenes: Positive = 250
    test_scenes: Positive = 500
    per_scene: Positive = Field(6, description="questions about a scene, in one conversation")
    max_objects: Annotated[int, Field(ge=2, le=9)] = 4
    speech: bool | Literal["asked"] = Field(
        False, description="speak every scene's caption; asked: and ask what is said, of <audio>"
    )
    seed: Count = 0
    llava: LlavaConfig | None = None
    parquet: dict[str, list[str]] | None = Field(
        None, description="files by split: columns turns (role, content), image, audio, ..."
    )
    instructions: InstructionsConfig | None = None

    @model_validator(mode="after")
    def _source_is_described(self):
        if self.source != "scenes" and getattr(self, self.source) is None:
            raise ValueError(f"source {self.source!r} needs data.conversations.{self.source}")
        return self


class LoRAConfig(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) beside linear layers."""

    rank: Positive = 64
    alpha: Positive = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[str], Field(min_length=1)] = [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ]


class LanguageConfig(Section):
    """A causal language model that stays as it is, but for its adapters."""

    model: str = Field(description="a shipped name, a local folder, or a hub name")
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantize: Literal["4bit", "8bit"] | None = Field(
        None, description="4bit: NF4 with double quantisation; 8bit: LLM.int8()"
    )
    lora: LoRAConfig | None = LoRAConfig()
    gradient_checkpointing: bool = False
    device_map: str | dict[str, int | str] | None = Field(
        None, description="of accelerate, to share a GPU or span several; null: one device"
    )
    max_memory: Annotated[dict[int | str, str] | None, BeforeValidator(_numbered)] = Field(
        None, description='{0: "20GiB", cpu: "60GiB"}'
    )

    @model_validator(mode="after")
    def _memory_is_of_a_map(self):
        if self.max_memory is not None and self.device_map is None:
            raise ValueError("max_memory needs a device_map, such as auto")
        return self


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
