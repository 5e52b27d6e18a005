"""Feature extraction: how frozen encoders are run, and what is kept of their outputs."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_lib.config.base import Count, Positive, Precision, Section
from edge_lib.config.modality import ModalityConfig
from edge_lib.config.slurm import SlurmOptions


class TokensConfig(Section):
    """How tokens are reduced. `{window: 2, dtype: int8}` takes about 1/8 of the bytes."""

    window: Positive = Field(1, description="average an image's tokens over squares of this side")
    dtype: Literal["float16", "float32", "int8"] | None = Field(
        None, description="of stored tokens, features.dtype if null; int8 has a scale a token"
    )


class FeaturesConfig(Section):
    """How frozen encoders are run, and what is kept of their outputs."""

    online: bool = Field(False, description="encode in every training step; store nothing")
    batch_size: Positive = Field(
        128, description="of a forward pass of extraction; on a CPU at most 32"
    )
    shard_rows: Positive = 4096
    backend: Literal["torch", "onnx"] = Field(
        "torch", description="onnx: onnxruntime on the CPU; needs edge-glass[export]"
    )
    precision: Literal[Precision, "auto"] = Field(
        "fp32",
        description="auto: bf16 where this machine multiplies in it, else fp32; with section "
        "aligner, that of its training",
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="of stored features")
    tokens: TokensConfig = TokensConfig()
    num_processes: Positive | None = Field(None, description="launch.num_processes if null")
    slurm: SlurmOptions = Field({}, description="of a task of `extract --cluster slurm`")
    num_workers: Count = 0
    max_gb: Annotated[float, Field(gt=0)] = Field(100.0, description="refuse larger token stores")
    on_device: bool = Field(False, description="keep the whole store in accelerator memory")

    @model_validator(mode="after")
    def _onnx_runs(self):
        if self.backend == "onnx" and (self.online or self.precision not in ("fp32", "auto")):
            raise ValueError("backend onnx needs precision fp32 and online false")
        if self.backend == "onnx" and not all(map(find_spec, ("onnxruntime", "onnxscript"))):
            raise ValueError("backend onnx needs the packages of edge-glass[export]")
        return self

    @model_validator(mode="after")
    def _precision_is_resolved(self):
        """Once for all that reads the config: other machines that take part may differ."""
        if self.precision == "auto":
            self.precision = "fp32" if self.backend == "onnx" else native_precision()
        return self


def native_precision() -> Precision:
    """bf16 if the first GPU multiplies in it, or on a machine without GPUs the CPU; else fp32."""
    import torch  # takes a second, and most configs name a precision

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = torch.cpu.get_capabilities()
    return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"


@dataclass(frozen=True)
class FeatureSpec:
    """Which encoders are run, how, and where their features are stored."""

    modalities: dict[str, ModalityConfig]
    features: FeaturesConfig
    cache_dir: Path
