"""An exported aligner embeds as the aligner, without torch."""

import asyncio
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch.nn.functional as F
from audio_helpers import encode, sine
from image_helpers import to_file
from PIL import Image
from serving.test_index import write_index
from transformers import AutoImageProcessor, CLIPImageProcessor, WhisperFeatureExtractor

from edge_lib.config import ConfigError
from edge_lib.data.audio import decode_audio
from edge_lib.models.saving import model_digest
from edge_lib.serving.embedding import EmbedQueue, TorchEmbedder
from edge_lib.serving.errors import ApiError
from edge_lib.serving.media import Media
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.onnx_embedder import (
    OnnxEmbedder,
    log_mel,
    mel_filters,
    prepare_clip,
    prepare_image,
)
from edge_lib.serving.settings import ServeSettings

TEXTS = ["a red three", "one", "a small blue nine at the top left of the picture"]
PICTURES = [to_file(Image.effect_noise((n, 40), 80).convert("RGB"), "PNG") for n in (30, 90)]
CLIPS = [encode(sine(n, 16000), 16000) for n in (0.2, 1.7)]


@pytest.fixture(scope="module")
def embedder(exported):
    return OnnxEmbedder(exported)


def embed(embedder, modality, items):
    async def main():
        queue = EmbedQueue(embedder, ServeSettings(), Metrics())
        queue.start()
        try:
            return await queue.embed(modality, items, "items")
        finally:
            await queue.stop()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("modality", "items"),
    [
        ("text", TEXTS),
        ("vision", [Media("image", content) for content in PICTURES]),
        ("audio", [Media("audio", content) for content in CLIPS]),
    ],
    ids=["text", "vision", "audio"],
)
def test_onnx_embedder_embeds_as_the_aligner(aligner, embedder, modality, items):
    decoded = items if modality == "text" else [item.decode() for item in items]
    expected = F.normalize(aligner.embed(modality, decoded), dim=1)
    np.testing.assert_allclose(embed(embedder, modality, items), expected, atol=1e-5)


def test_onnx_embedder_describes_the_aligner(aligner, embedder):
    assert embedder.modalities == ("vision", "audio", "text")
    assert embedder.dims == [8, 16]
    assert embedder.model_sha256 == model_digest(aligner.source)


@pytest.mark.parametrize(
    ("modality", "item", "limit"),
    [
        ("text", "word " * 100, "60 tokens"),
        ("audio", Media("audio", encode(sine(2.1, 16000), 16000)), "2 s"),
    ],
    ids=["text", "audio"],
)
def test_onnx_embedder_refuses_what_the_model_would_cut(embedder, modality, item, limit):
    with pytest.raises(ApiError, match=f"longer than the {limit} that the model reads"):
        embed(embedder, modality, [item])


def test_onnx_embedder_refuses_other_folders(exported, tmp_path):
    with pytest.raises(ConfigError, match=r"no export: config\.json"):
        OnnxEmbedder(tmp_path)
    other = shutil.copytree(exported, tmp_path / "vlm")
    config = json.loads((other / "config.json").read_text())
    config |= {"graphs": {"vision_encoder": {}}, "architectures": ["VLM"]}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="an export of VLM embeds nothing"):
        OnnxEmbedder(other)
    (other / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"no export: config\.json"):
        OnnxEmbedder(other)


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("config.json", "[]", "{folder} is no export: config.json: 'list' object"),
        (
            "config.json",
            '{"dims": [8]}',
            "{folder} is no export: config.json: no architectures, gr",
        ),
        ("preprocessor_config.json", "[]", "{folder} is no export: preprocessor_config.json: "),
        ("tokenizer.json", "{}", "{folder}/tokenizer.json cannot be loaded: Model missing"),
        ("tokenizer.json", None, "{folder}/tokenizer.json cannot be loaded: No such file"),
        ("onnx/text_model.onnx", "x", "{folder}/onnx/text_model.onnx cannot be loaded: "),
        ("onnx/vision_model.onnx", None, "{folder}/onnx/vision_model.onnx cannot be loaded: "),
    ],
    ids=["list", "no keys", "preprocessor", "tokenizer", "no tokenizer", "graph", "no graph"],
)
def test_onnx_embedder_refuses_damaged_files(exported, tmp_path, file, content, line):
    folder = shutil.copytree(exported, tmp_path / "export")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(ConfigError) as error:
        OnnxEmbedder(folder)
    assert str(error.value).startswith(line.format(folder=folder))
    assert "\n" not in str(error.value)


def test_onnx_embedder_and_search_need_neither_torch_nor_transformers(exported, tmp_path):
    index = write_index(tmp_path / "index.parquet", dims=(8, 16))
    script = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from pathlib import Path
from edge_lib.serving.app import create_app
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.service import load_service
from edge_lib.serving.settings import ServeSettings
settings = ServeSettings(index={str(index)!r})
service = load_service({str(exported)!r}, settings, Metrics())
vectors = service.embedder._embedder.embed("text", ["a red three"])
print(vectors.shape, len(service.index.search(vectors[0], 3)))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "(1, 16) 3\n", result.stderr


# --- preprocessing ---------------------------------------------------------------------------

SQUARE = {"size": {"height": 32, "width": 24}, "do_center_crop": False}
CROPPED = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
PADDED = {"size": {"shortest_edge": 20}, "crop_size": {"height": 33, "width": 40}}
PLAIN = SQUARE | {"do_normalize": False, "resample": 2}


@pytest.mark.parametrize("config", [SQUARE, CROPPED, PADDED, PLAIN], ids=range(4))
@pytest.mark.parametrize("size", [(57, 43), (43, 57), (20, 20), (300, 11)], ids=str)
def test_onnx_images_are_prepared_as_by_transformers(tmp_path, config, size):
    CLIPImageProcessor(**config).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    image = Image.effect_noise(size, 90).convert("RGB")
    expected = processor([image], return_tensors="np").pixel_values[0]
    pixels = prepare_image(image, processor.to_dict(), expected.shape[1:])
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


@pytest.mark.parametrize(("n_fft", "bins"), [(400, 80), (400, 128), (512, 40)])
def test_mel_filters_equal_whispers(n_fft, bins):
    extractor = WhisperFeatureExtractor(n_fft=n_fft, feature_size=bins)
    np.testing.assert_allclose(mel_filters(n_fft, bins), extractor.mel_filters.T, atol=1e-12)


@pytest.mark.parametrize("seconds", [0.025, 1.0, 3.999, 4.0], ids=str)
def test_onnx_clips_are_prepared_as_by_transformers(seconds):
    extractor = WhisperFeatureExtractor(feature_size=40, hop_length=160, chunk_length=4)
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16000)).astype(np.float32)
    clip = noise + sine(seconds, 16000)[: len(noise)]
    expected = extractor(
        [clip], sampling_rate=16000, return_tensors="np", return_attention_mask=True
    )
    features = prepare_clip(clip, extractor.to_dict())
    np.testing.assert_allclose(features["input_features"], expected.input_features[0], atol=1e-4)
    np.testing.assert_array_equal(features["attention_mask"], expected.attention_mask[0])


def test_log_mel_of_silence_is_constant():
    features = log_mel(decode_audio(encode(np.zeros(1600, np.float32), 16000)), 400, 160, 80)
    assert features.shape == (80, 10)
    np.testing.assert_allclose(features, -1.5)


def test_onnx_embedder_counts_tokens_as_the_aligner(aligner, embedder):
    expected = TorchEmbedder(aligner).count_tokens(TEXTS)
    assert embedder.count_tokens(TEXTS) == expected > len(TEXTS)


def test_onnx_embedder_refuses_audio_of_another_extractor(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "ast")
    path = folder / "preprocessor_config.json"
    other = {"feature_extractor_type": "ASTFeatureExtractor"}
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    with pytest.raises(ConfigError, match="not ASTFeatureExtractor; serve the run that was"):
        OnnxEmbedder(folder)
