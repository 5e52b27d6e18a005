"""Configs: YAML in, one validated `ExperimentConfig` out."""

from edge_lib.config.backbones import (
    LanguageBackboneConfig,
    SpeechBackboneConfig,
    VisionBackboneConfig,
)
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
)
from edge_lib.config.studies import AlignerSource, SweepConfig
from edge_lib.config.train import TrainConfig
from edge_lib.config.vlm import ConversationsConfig, LanguageConfig, LoRAConfig, VLMConfig

__all__ = [
    "MODALITIES",
    "ROOT",
    "AlignerSource",
    "CommonVoiceConfig",
    "ConfigError",
    "ConversationsConfig",
    "CurriculumConfig",
    "DataConfig",
    "DecoderConfig",
    "ExperimentConfig",
    "FeaturesConfig",
    "FusionConfig",
    "GQAConfig",
    "LanguageBackboneConfig",
    "LanguageConfig",
    "LoRAConfig",
    "ModalityConfig",
    "ParquetConfig",
    "QAConfig",
    "QuestionsConfig",
    "ScenesConfig",
    "SpeechBackboneConfig",
    "SweepConfig",
    "TrainConfig",
    "VLMConfig",
    "VQAv2Config",
    "VisionBackboneConfig",
    "from_root",
    "load_config",
]
