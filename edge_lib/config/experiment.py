"""A whole experiment: every section."""

from itertools import combinations
from typing import Annotated

import yaml
from pydantic import Field, model_validator

from edge_lib.config.aligner import AlignerSource
from edge_lib.config.backbones import BackbonesConfig
from edge_lib.config.base import Count, Section
from edge_lib.config.bench import BenchConfig
from edge_lib.config.checks import problems
from edge_lib.config.data import DataConfig
from edge_lib.config.evaluate import CompareConfig, EvaluateConfig
from edge_lib.config.features import FeaturesConfig, FeatureSpec
from edge_lib.config.fusion import FusionConfig
from edge_lib.config.launch import LaunchConfig
from edge_lib.config.loss import LossConfig
from edge_lib.config.modalities import MODALITIES
from edge_lib.config.modality import ModalityConfig
from edge_lib.config.qa import QAConfig
from edge_lib.config.search import SearchConfig
from edge_lib.config.sweep import SweepConfig
from edge_lib.config.train import TrainConfig
from edge_lib.config.vlm import VLMConfig

# keys that decide where and how fast an experiment runs, and cannot change its results
NOT_RESULTS = {
    "launch": {"node_rank", "rdzv_endpoint", "cluster", "slurm"},
    "features": {"num_processes", "slurm"},
    "sweep": {"workers", "threads", "gpus", "retry", "cluster", "slurm"},
}


class ExperimentConfig(Section):
    """All sections of an experiment. Checks that need several of them are in `checks`."""

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
    compare: CompareConfig = CompareConfig()
    aligner: AlignerSource | None = None
    search: SearchConfig | None = None
    sweep: SweepConfig | None = None
    bench: BenchConfig | None = None

    @model_validator(mode="after")
    def _sections_agree(self):
        if messages := [*problems(self)]:
            raise ValueError("; ".join(messages))
        return self

    @property
    def feature_spec(self) -> FeatureSpec:
        """All that is needed to encode this experiment's inputs, or to open their features."""
        return FeatureSpec(self.modalities, self.features, self.data.cache_dir)

    @property
    def modalities(self) -> dict[str, ModalityConfig]:
        """The modalities that have a section, by name."""
        return {name: getattr(self, name) for name in MODALITIES if getattr(self, name)}

    @property
    def extract_launch(self) -> dict:
        """Arguments of `launch` for feature extraction, which may use more processes."""
        options = self.launch.model_dump()
        return options | {"num_processes": self.features.num_processes or options["num_processes"]}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of modalities that the loss aligns."""
        return self.loss.pairs or list(combinations(self.modalities, 2))

    def to_yaml(self) -> str:
        """The resolved config, without the keys that cannot change a result."""
        values = self.model_dump(mode="json", exclude=NOT_RESULTS)
        return yaml.safe_dump(values, sort_keys=False)

    def digest(self) -> str:
        """Eight hex digits that name this config: equal configs share a run folder."""
        neutral = {
            name: section.model_copy(
                update={k: type(section).model_fields[k].default for k in keys}
            )
            for name, keys in NOT_RESULTS.items()
            if (section := getattr(self, name))
        }
        return Section.digest(self.model_copy(update=neutral))
