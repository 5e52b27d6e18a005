"""Configs: YAML in, one validated `ExperimentConfig` out."""

from edge_lib.config.aligner import AlignerSource
from edge_lib.config.backbones import (
    LanguageBackboneConfig,
    SpeechBackboneConfig,
    VisionBackboneConfig,
)
from edge_lib.config.base import ROOT, from_root
from edge_lib.config.bench import BenchConfig
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.config.data import DataConfig, SplitConfig
from edge_lib.config.errors import ConfigError
from edge_lib.config.evaluate import CandidatesConfig, CompareConfig, ContrastConfig, EvaluateConfig
from edge_lib.config.experiment import ExperimentConfig
from edge_lib.config.features import FeaturesConfig, FeatureSpec
from edge_lib.config.fusion import DamageConfig, FusionConfig
from edge_lib.config.language import LanguageConfig, LoRAConfig
from edge_lib.config.loading import load_config
from edge_lib.config.loss import LossConfig
from edge_lib.config.modalities import MODALITIES
from edge_lib.config.modality import EncoderConfig, ModalityConfig
from edge_lib.config.qa import CurriculumConfig, DecoderConfig, QAConfig
from edge_lib.config.questions import GQAConfig, QuestionsConfig, VQAv2Config
from edge_lib.config.scenes import ScenesConfig
from edge_lib.config.search import QueryConfig, SearchConfig
from edge_lib.config.sources import (
    CocoConfig,
    ColumnsConfig,
    CommonVoiceConfig,
    FilesConfig,
    FolderConfig,
    HeldOutConfig,
    HubConfig,
    HubSplitsConfig,
    TableConfig,
    WebDatasetConfig,
)
from edge_lib.config.sweep import SweepConfig
from edge_lib.config.train import MiningConfig, TrainConfig
from edge_lib.config.vlm import VLMConfig, VLMModelConfig
