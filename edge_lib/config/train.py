"""How a model is trained. Every model has the same keys."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from edge_lib.config.base import Count, DropoutRate, Fraction, Positive, Precision, Section


class MiningConfig(Section):
    """Hard negatives that are searched for among the training rows with the heads as they are."""

    k: Positive = Field(3, description="nearest rows that share a row's batch")
    every: Positive = Field(1, description="epochs from one search to the next")


class TrainConfig(Section):
    """Optimizer, schedule, checkpoints. `batch_size` counts rows over all processes."""

    epochs: Positive = 10
    max_steps: Positive | None = None
    batch_size: Annotated[int, Field(ge=2)] = 256
    lr: PositiveFloat = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.05
    warmup: Fraction = Field(0.05, description="share of all steps, with a linear rise")
    cooldown: Fraction | None = Field(
        None, description="last share of all steps, with a linear decay; null: cosine decay"
    )
    clip: PositiveFloat = 1.0
    ema: Fraction | None = Field(
        None, description="decay of the averaged weights that are evaluated and saved"
    )
    accumulation: Positive = 1
    precision: Precision = "fp32"
    sharding: Literal["fsdp2", "zero2"] | None = Field(
        None,
        description="fsdp2 shards weights, gradients and optimizer over the launched GPUs; zero2 "
        "(DeepSpeed) all but the weights; null: DDP",
    )
    text_dropout: DropoutRate = Field(
        0.0, description="share of training rows that lose their caption"
    )
    hard_negatives: MiningConfig | None = Field(
        None, description="of the heads: near rows share a batch; null: random batches"
    )
    eval_every: Positive = 100
    checkpoint_every: Positive = 100
    keep_checkpoints: Positive = 2
    log_every: Positive = 10
    num_workers: Count = 0
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
