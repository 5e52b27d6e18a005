"""The tiny backbones that 00_backbones trains and the package ships."""

from pathlib import Path

from pydantic import Field

from edge_lib.config.base import Positive, RepoPath, Section
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.config.qa import CurriculumConfig
from edge_lib.config.scenes import ScenesConfig
from edge_lib.config.train import TrainConfig


class VisionBackboneConfig(Section):
    """The tiny residual network that 00_backbones trains to read scenes."""

    output: RepoPath = Path("edge_lib/assets/tiny-resnet")
    widths: list[Positive] = Field([32, 64, 128], description="channels, stage by stage")
    blocks: Positive = Field(1, description="residual blocks a stage")
    data: ScenesConfig = ScenesConfig()
    train: TrainConfig = TrainConfig()


class SpeechBackboneConfig(Section):
    """The tiny Whisper encoder that 00_backbones trains to recognise spoken scenes."""

    output: RepoPath = Path("edge_lib/assets/tiny-whisper")
    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    data: ScenesConfig = ScenesConfig()
    train: TrainConfig = TrainConfig()


class LanguageBackboneConfig(Section):
    """The tiny Qwen2 that 00_backbones trains on scenes put in words."""

    output: RepoPath = Path("edge_lib/assets/tiny-qwen2")
    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    vocab_size: Positive = 768
    data: ConversationsConfig = ConversationsConfig()
    curriculum: CurriculumConfig = CurriculumConfig(kinds=["colour", "digit", "position"], steps=1)
    train: TrainConfig = TrainConfig()


class BackbonesConfig(Section):
    """The tiny backbones that the package ships; each is trained if its section is there."""

    vision: VisionBackboneConfig | None = None
    speech: SpeechBackboneConfig | None = None
    language: LanguageBackboneConfig | None = None
