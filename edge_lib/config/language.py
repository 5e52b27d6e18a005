"""A causal language model and its adapters."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from edge_lib.config.base import DropoutRate, NonEmpty, Positive, Precision, Section


def _integer_keys(devices: dict | None) -> dict | None:
    """Device numbers as integers: JSON turns keys into strings."""
    if not isinstance(devices, dict):
        return devices
    return {int(name) if str(name).isdigit() else name: size for name, size in devices.items()}


class LoRAConfig(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) beside linear layers."""

    rank: Positive = 64
    alpha: Positive = 16
    dropout: DropoutRate = 0.0
    targets: Annotated[list[str], NonEmpty] = [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ]


class LanguageConfig(Section):
    """A frozen causal language model, and its trained adapters."""

    model: str = Field(description="a shipped name, a local folder, or a hub name")
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    precision: Precision = "fp32"
    quantize: Literal["4bit", "8bit"] | None = Field(
        None, description="4bit: NF4 with double quantisation; 8bit: LLM.int8()"
    )
    lora: LoRAConfig | None = LoRAConfig()
    gradient_checkpointing: bool = False
    device_map: str | dict[str, int | str] | None = Field(
        None, description="Accelerate's, to span several devices; null: one device"
    )
    max_memory: Annotated[dict[int | str, str] | None, BeforeValidator(_integer_keys)] = Field(
        None, description='{0: "20GiB", cpu: "60GiB"}'
    )

    @model_validator(mode="after")
    def _max_memory_needs_device_map(self):
        if self.max_memory is not None and self.device_map is None:
            raise ValueError("max_memory needs a device_map, such as auto")
        return self
