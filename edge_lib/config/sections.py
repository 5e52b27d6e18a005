"""Every parameter of an experiment, typed, section by section."""

import hashlib
from itertools import combinations
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from edge_lib.config.backbones import BackbonesConfig
from edge_lib.config.base import (
    MODALITIES,
    Count,
    Modality,
    Positive,
    Section,
)
from edge_lib.config.data import DataConfig
from edge_lib.config.qa import CurriculumConfig, DecoderConfig
from edge_lib.config.studies import AlignerSource, SweepConfig
from edge_lib.config.train import TrainConfig
from edge_lib.config.vlm import VLMConfig


class ModalityConfig(Section):
    """A frozen encoder and the head trained on it."""

    encoder: str = Field(description="a shipped name, a local folder, or a hub name")
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    augment: bool = Field(False, description="random crops; needs features.online")
    pooler: Literal["pooled", "mean", "cls", "tokens", "attention", "perceiver"] = "pooled"
    window: Positive = Field(1, description="side of the squares that pooler tokens averages")
    num_latents: Positive = 8
    num_layers: Positive = 1
    num_heads: Positive = 4
    width: Positive = Field(256, description="of the pooler and of the MLP adapter")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.pooler in ("attention", "perceiver") and self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class LossConfig(Section):
    """Matryoshka InfoNCE: the largest dim is the width of the shared embedding."""

    pairs: list[tuple[Modality, Modality]] | None = Field(None, description="all, if not named")
    pair_weights: list[float] | None = None
    dims: list[Positive] = [256, 128, 64, 32, 16, 8]
    weights: list[float] | None = None
    sample_single_dim: bool = False
    chunk: Positive | None = Field(None, description="rows of the similarity matrix at a time")
    temperature: Annotated[float, Field(gt=0)] = Field(0.07, description="initial 1/logit_scale")

    @model_validator(mode="after")
    def _dims_and_weights_agree(self):
        if not self.dims or len(set(self.dims)) != len(self.dims):
            raise ValueError("dims must be a list of different sizes")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(f"{len(self.weights)} weights for {len(self.dims)} dims")
        return self

    @model_validator(mode="after")
    def _pairs_and_weights_agree(self):
        if self.pairs is not None:
            if not self.pairs or len({frozenset(pair) for pair in self.pairs}) != len(self.pairs):
                raise ValueError("pairs must be a list of different pairs")
            if any(a == b for a, b in self.pairs):
                raise ValueError("a pair needs two modalities")
        if self.pair_weights and len(self.pair_weights) != len(self.pairs or ()):
            raise ValueError(f"{len(self.pair_weights)} pair_weights, but not as many pairs")
        return self


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


class LaunchConfig(Section):
    num_processes: Positive = 1
    num_nodes: Positive = 1
    node_rank: Count = 0
    rdzv_endpoint: str = "localhost:0"


class EvaluateConfig(Section):
    dims: list[Positive] | None = Field(None, description="the loss's, if not named")
    ks: list[Positive] = [1, 5, 10]
    bootstrap: Positive = 1000
    tsne_rows: Positive = 400
    tsne_perplexity: Annotated[float, Field(gt=1)] = 30.0


class FusionConfig(Section):
    """One embedding from several modalities, trained on heads that stay as they are."""

    strategies: list[Literal["concat", "cross_attention", "gated"]] = ["cross_attention"]
    modalities: list[Modality] = ["vision", "audio"]
    target: Modality = "text"
    seeds: list[Count] = [0]
    width: Positive = 256
    num_latents: Positive = Field(8, description="of cross_attention: the length of its prefix")
    num_layers: Positive = 1
    num_heads: Positive = 4
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _modalities_make_sense(self):
        if len(set(self.modalities)) != len(self.modalities) or self.target in self.modalities:
            raise ValueError("modalities must differ, from each other and from the target")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class QAConfig(Section):
    """Decoders trained on questions about images, over a frozen aligner's vision."""

    use_trm: bool | None = Field(None, description="true or false: only that decoder; null: both")
    plain: DecoderConfig = DecoderConfig(layers=4)
    trm: DecoderConfig = DecoderConfig(layers=2)
    vision: bool = Field(True, description="false: a control that sees the question alone")
    scenes: Positive | None = Field(None, description="training images, all if not named")
    questions_per_image: Positive = Field(8, description="in a batch: they share a prefix")
    curriculum: CurriculumConfig | None = None
    vocab_size: Positive = 512
    max_answer: Positive = Field(6, description="tokens, the end included")
    test_steps: list[Positive] = Field(
        [], description="inner steps that a trained recursive decoder is also tested with"
    )
    train: TrainConfig = TrainConfig()

    @property
    def arms(self) -> dict[str, DecoderConfig]:
        """The decoders to train, by name."""
        if self.use_trm is None:
            return {"plain": self.plain, "trm": self.trm}
        return {"trm": self.trm} if self.use_trm else {"plain": self.plain}


class ExperimentConfig(Section):
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    seed: Count = 0
    data: DataConfig = DataConfig()
    vision: ModalityConfig | None = None
    audio: ModalityConfig | None = None
    text: ModalityConfig | None = None
    backbones: BackbonesConfig = BackbonesConfig()
    loss: LossConfig = LossConfig()
    fusion: FusionConfig | None = None
    qa: QAConfig | None = None
    vlm: VLMConfig | None = None
    features: FeaturesConfig = FeaturesConfig()
    train: TrainConfig = TrainConfig()
    launch: LaunchConfig = LaunchConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    aligner: AlignerSource | None = None
    sweep: SweepConfig | None = None

    @model_validator(mode="after")
    def _modalities_are_there(self):
        fusion = [*self.fusion.modalities, self.fusion.target] if self.fusion else []
        for where, names in (("loss.pairs", sum(self.loss.pairs or [], ())), ("fusion", fusion)):
            missing = sorted(set(names) - set(self.modalities))
            if missing:
                raise ValueError(f"{where} names {missing}, which have no section of their own")
        whole = [name for name in fusion if self.modalities[name].pooler == "tokens"]
        if whole:
            raise ValueError(f"fusion needs pooled modalities, and {whole} hand on every token")
        return self

    @model_validator(mode="after")
    def _store_or_online(self):
        for name, modality in self.modalities.items():
            if modality.augment and not self.features.online:
                raise ValueError(
                    f"{name}.augment changes pixels in every step, which a feature store cannot: "
                    "set features.online=true"
                )
        if self.train.num_workers and (self.features.online or self.features.on_device):
            raise ValueError(
                "train.num_workers must be 0 with features.online or features.on_device: "
                "batches are then made on the accelerator"
            )
        if (self.qa or self.vlm) and self.features.online:
            raise ValueError("qa and vlm read the feature store: set features.online=false")
        if self.qa and self.qa.train.num_workers and self.features.on_device:
            raise ValueError("qa.train.num_workers must be 0 with features.on_device")
        stages = self.vlm.stages.values() if self.vlm else ()
        if self.features.on_device and any(stage.num_workers for stage in stages):
            raise ValueError("vlm.stages.*.num_workers must be 0 with features.on_device")
        return self

    @model_validator(mode="after")
    def _one_process_spreads_a_model(self):
        if self.vlm and self.vlm.language.device_map is not None and self.launch.num_processes > 1:
            raise ValueError("vlm.language.device_map needs launch.num_processes=1")
        return self

    @model_validator(mode="after")
    def _only_large_models_are_sharded(self):
        small = [("train", self.train)]
        small += [(f"{n}.train", s.train) for n in ("fusion", "qa") if (s := getattr(self, n))]
        if named := [name for name, how in small if how.sharding]:
            raise ValueError(f"{named[0]}.sharding: only vlm.stages can be sharded")
        return self

    @property
    def modalities(self) -> dict[str, ModalityConfig]:
        """The modalities this experiment uses, by name."""
        return {name: getattr(self, name) for name in MODALITIES if getattr(self, name)}

    @property
    def encode_launch(self) -> dict:
        """What `launch` is given to encode: perhaps other processes than to train."""
        ranks = self.launch.model_dump()
        return ranks | {"num_processes": self.features.num_processes or ranks["num_processes"]}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of modalities that the loss brings together."""
        return self.loss.pairs or list(combinations(self.modalities, 2))

    def to_yaml(self) -> str:
        """The resolved config, less what may differ where the results do not."""
        how = {"workers", "threads", "gpus", "retry", "cluster", "slurm"}
        exclude = {
            "launch": {"node_rank", "rdzv_endpoint"},
            "features": {"num_processes"},
            "sweep": how,
        }
        ours = self.model_dump(mode="json", exclude=exclude)
        return yaml.safe_dump(ours, sort_keys=False)

    def digest(self) -> str:
        """Eight hex digits that name this config: equal configs share a run folder.

        What is null by default and stays so is left out: a key that comes later renames no run.
        """
        told = yaml.safe_dump(_told(self, yaml.safe_load(self.to_yaml())), sort_keys=False)
        return hashlib.sha256(told.encode()).hexdigest()[:8]


def _told(section: Section, dumped: dict) -> dict:
    """A section's dump without what is null by default."""
    kept = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if name in dumped and not (value is None and field.default is None):
            nested = isinstance(value, Section)
            kept[name] = _told(value, dumped[name]) if nested else dumped[name]
    return kept
