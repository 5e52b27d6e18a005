"""A whole experiment: every section, and the checks that span several of them."""

from itertools import combinations
from typing import Annotated

import yaml
from pydantic import Field, model_validator

from edge_lib.config.aligner import AlignerSource
from edge_lib.config.backbones import BackbonesConfig
from edge_lib.config.base import MODALITIES, Count, Section
from edge_lib.config.data import DataConfig
from edge_lib.config.evaluate import EvaluateConfig
from edge_lib.config.features import FeaturesConfig
from edge_lib.config.fusion import FusionConfig
from edge_lib.config.launch import LaunchConfig
from edge_lib.config.loss import LossConfig
from edge_lib.config.modality import ModalityConfig
from edge_lib.config.qa import QAConfig
from edge_lib.config.sweep import SweepConfig
from edge_lib.config.train import TrainConfig
from edge_lib.config.vlm import VLMConfig

# where and how fast an experiment runs, but not what comes out
NOT_RESULTS = {
    "launch": {"node_rank", "rdzv_endpoint"},
    "features": {"num_processes"},
    "sweep": {"workers", "threads", "gpus", "retry", "cluster", "slurm"},
}


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
        """The resolved config, without the keys that cannot change a result."""
        values = self.model_dump(mode="json", exclude=NOT_RESULTS)
        return yaml.safe_dump(values, sort_keys=False)

    def digest(self) -> str:
        """Eight hex digits that name this config: equal configs share a run folder."""
        return super().digest(exclude=NOT_RESULTS)
