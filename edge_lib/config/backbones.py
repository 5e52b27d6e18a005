"""The tiny backbones that the package ships, trained by notebook 00_backbones."""

from pathlib import Path

from pydantic import Field

from edge_lib.config.base import Positive, RepoPath, Section
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.config.qa import CurriculumConfig
from edge_lib.config.scenes import ScenesConfig
from edge_lib.config.train import TrainConfig


class BackboneConfig(Section):
    """Keys of every tiny backbone."""

    output: RepoPath = Field(description="folder of the published checkpoint")
    train: TrainConfig = TrainConfig()


class VisionBackboneConfig(BackboneConfig):
    """A small ResNet, trained to recognise the digits in each cell of a scene."""

    output: RepoPath = Path("edge_lib/assets/tiny-resnet")
    widths: list[Positive] = Field([32, 64, 128], description="channels of each stage")
    blocks: Positive = Field(1, description="residual blocks in each stage")
    data: ScenesConfig = ScenesConfig()


class SpeechBackboneConfig(BackboneConfig):
    """A small Whisper encoder, trained to recognise spoken captions of scenes."""

    output: RepoPath = Path("edge_lib/assets/tiny-whisper")
    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    data: ScenesConfig = ScenesConfig()


class LanguageBackboneConfig(BackboneConfig):
    """A small Qwen2, trained on conversations about scenes whose images are replaced by words."""

    output: RepoPath = Path("edge_lib/assets/tiny-qwen2")
    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    vocab_size: Positive = 768
    data: ConversationsConfig = ConversationsConfig()
    curriculum: CurriculumConfig = CurriculumConfig(kinds=["colour", "digit", "position"], steps=1)


class BackbonesConfig(Section):
    """The tiny backbones to train: those that have a section."""

    vision: VisionBackboneConfig | None = None
    speech: SpeechBackboneConfig | None = None
    language: LanguageBackboneConfig | None = None
