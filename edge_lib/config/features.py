"""How frozen encoders are run, and what of their outputs is kept."""

from typing import Annotated, Literal

from pydantic import Field

from edge_lib.config.base import Count, Positive, Section


class FeaturesConfig(Section):
    """How frozen encoders are run, and what of them is kept."""

    online: bool = Field(False, description="encode in every step instead of storing")
    batch_size: Positive = 128
    shard_rows: Positive = 4096
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    dtype: Literal["float16", "float32"] = "float16"
    num_processes: Positive | None = Field(None, description="launch.num_processes if null")
    num_workers: Count = 0
    max_gb: Annotated[float, Field(gt=0)] = Field(100.0, description="refuse larger token stores")
    on_device: bool = Field(False, description="keep the whole store in accelerator memory")
