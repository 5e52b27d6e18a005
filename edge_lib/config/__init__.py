"""Configs: YAML in, one validated `ExperimentConfig` out."""

from edge_lib.config.base import MODALITIES, ROOT, from_root
from edge_lib.config.data import CommonVoiceConfig, DataConfig, ParquetConfig, ScenesConfig
from edge_lib.config.loading import ConfigError, load_config
from edge_lib.config.qa import (
    CurriculumConfig,
    DecoderConfig,
    GQAConfig,
    QuestionsConfig,
    VQAv2Config,
)
from edge_lib.config.sections import (
    ExperimentConfig,
    FeaturesConfig,
    FusionConfig,
    ModalityConfig,
    QAConfig,
    SpeechBackboneConfig,
    TrainConfig,
    VisionBackboneConfig,
)
from edge_lib.config.studies import AlignerSource, SweepConfig

__all__ = [
    "MODALITIES",
    "ROOT",
    "AlignerSource",
    "CommonVoiceConfig",
    "ConfigError",
    "CurriculumConfig",
    "DataConfig",
    "DecoderConfig",
    "ExperimentConfig",
    "FeaturesConfig",
    "FusionConfig",
    "GQAConfig",
    "ModalityConfig",
    "ParquetConfig",
    "QAConfig",
    "QuestionsConfig",
    "ScenesConfig",
    "SpeechBackboneConfig",
    "SweepConfig",
    "TrainConfig",
    "VQAv2Config",
    "VisionBackboneConfig",
    "from_root",
    "load_config",
]
