"""The additions that a newcomer makes first. Each docstring has the diff of the library."""

import io
from dataclasses import replace

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import nn

from edge_lib.config import (
    MODALITIES,
    DataConfig,
    EncoderConfig,
    ExperimentConfig,
    LossConfig,
    ModalityConfig,
)
from edge_lib.config.modalities import Modality
from edge_lib.config.registry import LOSSES, POOLERS, SOURCES
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.experiments.align import AlignmentTask, alignment_batches, embed_table
from edge_lib.features.encoder import Encoder, load_encoder
from edge_lib.features.extract import write_features
from edge_lib.features.store import open_stores
from edge_lib.features.vision import VisionEncoder
from edge_lib.features.weights import encoder_fingerprint
from edge_lib.models import Aligner
from edge_lib.nn.heads import build_head
from edge_lib.nn.losses import build_loss
from edge_lib.nn.poolers import Pooler
from edge_lib.sources import load_table, splits


class MaxPooler(Pooler):
    """The largest value of each column over the valid tokens."""

    def forward(self, output):
        hidden = ~output.mask[..., None]
        return output.tokens.masked_fill(hidden, -torch.inf).amax(1, keepdim=True)


def test_new_pooler_is_chosen_by_name(monkeypatch):
    """edge_lib/nn/poolers.py: + class MaxPooler
    edge_lib/config/registry.py: + "max": "edge_lib.nn.poolers:MaxPooler" in POOLERS
    """
    monkeypatch.setitem(POOLERS, "max", f"{__name__}:MaxPooler")
    config = ModalityConfig(encoder="x", pooler="max", width=16)
    head = build_head(config, [8, 4], dim_token=12, dim_pooled=6)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    output = EncoderOutput(torch.randn(2, 3, 12), mask, torch.randn(2, 6))
    sequence, pooled = head(output)
    assert (sequence.shape, pooled.shape) == ((2, 1, 8), (2, 8))
    torch.testing.assert_close(head.pooler(output)[1, 0], output.tokens[1, 0])


class CosineLoss(nn.Module):
    """One minus the mean cosine of the pairs; no negatives."""

    @classmethod
    def from_config(cls, config):
        return cls()

    def forward(self, a, b, present=None, generator=None, labels=None):
        cosines = nn.functional.cosine_similarity(a, b)
        return 1 - (cosines if present is None else cosines[present]).mean()


def test_new_loss_is_chosen_by_name(monkeypatch):
    """edge_lib/nn/losses.py: + class CosineLoss
    edge_lib/config/registry.py: + "cosine": "edge_lib.nn.losses:CosineLoss" in LOSSES
    """
    monkeypatch.setitem(LOSSES, "cosine", f"{__name__}:CosineLoss")
    loss = build_loss(LossConfig(kind="cosine", dims=[8]))
    a = torch.randn(4, 8, requires_grad=True)
    value = loss(a, -a.detach(), torch.tensor([True, True, True, False]))
    torch.testing.assert_close(value, torch.tensor(2.0))
    value.backward()


def load_gradients(config, split):
    """Eight rows: a grey image, a depth map of the same values, and a caption."""
    shades = range(10, 90, 10)
    cells = [_png(np.full((8, 8), shade, np.uint8)) for shade in shades]
    captions = [f"{split} shade {shade}" for shade in shades]
    columns = {"image": cells, "depth": cells, "texts": captions}
    return Table(Dataset.from_dict(columns), f"gradients {split}", f"gradients-{split}")


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_new_source_is_chosen_by_name(monkeypatch):
    """edge_lib/sources/gradients.py: + def load(config, split) -> Table
    edge_lib/config/registry.py: + "gradients": "edge_lib.sources.gradients:load" in SOURCES
    edge_lib/config/data.py: + gradients: GradientsConfig | None = None, if it has settings
    """
    monkeypatch.setitem(SOURCES, "gradients", f"{__name__}:load_gradients")
    config = DataConfig(source="gradients")
    assert splits(config) == ("train", "val", "test")
    table = load_table(config, "val")
    assert table.captions[0] == "val shade 10"
    assert table.images([7])[0].getpixel((0, 0)) == (80, 80, 80)


def decode_depth(content):
    return np.asarray(Image.open(io.BytesIO(content)), np.float32) / 255


def blank_depth():
    return np.zeros((8, 8), np.float32)


class DepthEncoder(Encoder):
    """Tokens of a depth map: its rows, projected; and their mean."""

    def __init__(self, config):
        super().__init__(config)
        torch.manual_seed(0)
        self.model = nn.Linear(8, 6)
        self.freeze()

    def prepare(self, maps):
        return {"depth": torch.from_numpy(np.stack(maps))}

    def forward(self, depth):
        tokens = self.model(depth)
        return EncoderOutput(tokens, tokens.new_ones(tokens.shape[:2], dtype=bool), tokens.mean(1))


class DepthExperiment(ExperimentConfig):
    depth: ModalityConfig | None = None


def test_new_modality_is_stored_aligned_and_embedded(monkeypatch, tmp_path):
    """edge_lib/config/modalities.py: + Modality("depth", column="depth", encoder=..., ...)
    edge_lib/config/experiment.py: + depth: ModalityConfig | None = None
    edge_lib/features/depth.py: + class DepthEncoder, decode_depth, blank_depth
    """
    depth = Modality(
        "depth",
        column="depth",
        encoder=f"{__name__}:DepthEncoder",
        blank=f"{__name__}:blank_depth",
        decode=f"{__name__}:decode_depth",
    )
    monkeypatch.setitem(MODALITIES, "depth", depth)
    monkeypatch.setitem(SOURCES, "gradients", f"{__name__}:load_gradients")
    (tmp_path / "encoder").mkdir()  # a checkpoint would be here
    config = DepthExperiment(
        name="x",
        data={"source": "gradients", "cache_dir": tmp_path / "cache", "missing": {"depth": 0.1}},
        depth={"encoder": str(tmp_path / "encoder"), "pooler": "mean", "width": 16},
        text={"encoder": "all-MiniLM-L6-v2", "width": 16},
        loss={"dims": [8], "pairs": [["depth", "text"]]},
        train={"batch_size": 4},
    )
    counts = write_features(config.data, config.feature_spec)
    assert counts["train/depth"] == {"items": 8, "skipped": 0, "truncated": 0}
    table = load_table(config.data, "train")
    stores = open_stores(config.feature_spec, table)
    widths = {name: store.widths for name, store in stores.items()}
    aligner = Aligner(config.modalities, config.loss.dims, widths)
    batches = alignment_batches(table, stores, config.data, config.train, config.seed)
    AlignmentTask(aligner, config.loss, config.pairs, config.seed)(batches[0]).backward()
    assert all(p.grad.abs().sum() > 0 for p in aligner.heads["depth"].parameters())
    embeddings, rows = embed_table(aligner, table, stores)
    assert embeddings["depth"].shape == (8, 8)
    assert rows["depth"].tolist() == [*range(8)]


class MirrorConfig(EncoderConfig):
    mirror: bool = False


class MirrorEncoder(VisionEncoder):
    """Encodes pictures as in a mirror."""

    def outputs(self, hidden, pixel_values):
        pixels = pixel_values.flip(3) if self.config.mirror else pixel_values
        return super().outputs(hidden, pixels)


def test_new_encoder_key_gives_other_outputs_and_fingerprints(monkeypatch, tiny_vision):
    """edge_lib/config/modality.py: + mirror: bool = False in EncoderConfig
    edge_lib/features/vision.py: + pixel_values.flip(3) in outputs
    """
    modality = replace(MODALITIES["vision"], encoder=f"{__name__}:MirrorEncoder")
    monkeypatch.setitem(MODALITIES, "vision", modality)
    config = MirrorConfig(encoder=str(tiny_vision), mirror=True)
    default, plain = MirrorConfig(encoder=str(tiny_vision)), EncoderConfig(encoder=str(tiny_vision))
    pixels = torch.rand(1, 3, 32, 32)
    mirrored = load_encoder("vision", config)(pixel_values=pixels)
    expected = load_encoder("vision", default)(pixel_values=pixels.flip(3))
    torch.testing.assert_close(mirrored.tokens, expected.tokens)
    assert encoder_fingerprint(default) == encoder_fingerprint(plain)
    assert encoder_fingerprint(config) != encoder_fingerprint(plain)
