"""How a model is trained: the same keys for every one."""

from typing import Annotated, Literal

from pydantic import Field

from edge_lib.config.base import Count, Fraction, Positive, Section


class TrainConfig(Section):
    """One loop for every model. `batch_size` counts rows over all processes."""

    epochs: Positive = 10
    max_steps: Positive | None = None
    batch_size: Annotated[int, Field(ge=2)] = 256
    lr: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup: Fraction = Field(0.05, description="share of all steps")
    cooldown: Fraction | None = Field(None, description="share of all steps; null: cosine")
    clip: Annotated[float, Field(gt=0)] = 1.0
    ema: Fraction | None = Field(None, description="decay of the average that is judged and kept")
    accumulation: Positive = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    sharding: Literal["fsdp2", "zero2"] | None = Field(
        None,
        description="over the launched GPUs: weights, gradients and optimizer (fsdp2), or all but "
        "the weights (DeepSpeed's zero2); null: each has all of them (DDP)",
    )
    text_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    eval_every: Positive = 100
    checkpoint_every: Positive = 100
    keep_checkpoints: Positive = 2
    log_every: Positive = 10
    num_workers: Count = 0
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
