"""Exported graphs against torch, on real and on awkward inputs; the folder and the command."""

import json
import runpy
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from export_helpers import TEXTS, items, pictures, run
from onnx import helper
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from edge_lib.config import ConfigError, ModalityConfig
from edge_lib.config.registry import POOLERS
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.image import decode_image
from edge_lib.export.folder import SCRIPT, _plain_resize, export_model
from edge_lib.export.loading import load_model, run_captions
from edge_lib.features.onnx import write_graph
from edge_lib.nn.heads import build_head
from edge_lib.runs import Run
from edge_lib.runs.files import write_json
from edge_lib.sources import load_table

# --- embeddings --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("dim", [None, 16, 8, 3])
@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_embeddings_equal_torch(aligner, exported, modality, dim, count):
    inputs = aligner.encoder(modality).prepare(items(modality, count))
    extra = {} if dim is None else {"dim": np.array(dim)}
    (embeddings,) = run(exported / f"onnx/{modality}_model.onnx", inputs, **extra)
    expected = F.normalize(aligner.embed(modality, items(modality, count))[:, :dim], dim=1)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [3, 60])
def test_text_graph_takes_any_length(aligner, exported, length):
    text = "two " * (length - 2)
    inputs = aligner.encoder("text").prepare([text])
    assert inputs["input_ids"].shape == (1, length)
    (embedding,) = run(exported / "onnx/text_model.onnx", inputs)
    expected = F.normalize(aligner.embed("text", text), dim=1)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-5)


def test_text_embedding_does_not_depend_on_padding(aligner, exported):
    encoder, graph = aligner.encoder("text"), exported / "onnx/text_model.onnx"
    (alone,) = run(graph, encoder.prepare(TEXTS[:1]))
    (padded,) = run(graph, encoder.prepare(TEXTS))
    torch.testing.assert_close(padded[:1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooler", POOLERS)
def test_head_with_each_pooler_equals_torch(pooler, tmp_path):
    """Of variable length, with padding, and one row that is padding alone."""

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            config = ModalityConfig(encoder="", pooler=pooler, width=16)
            self.head = build_head(config, [8, 4], 12, 12)

        def forward(self, inputs):
            output = EncoderOutput(inputs["tokens"], inputs["mask"], inputs["pooled"])
            return *self.head(output), self.head.sequence_mask(output)

    def inputs(batch, length):
        lengths = torch.arange(batch) * length // max(1, batch - 1)
        mask = torch.arange(length) < lengths[:, None]
        tokens = torch.randn(batch, length, 12)
        return {"tokens": tokens, "mask": mask, "pooled": torch.randn(batch, 12)}

    torch.manual_seed(0)
    module, sequence = Head().eval(), {0: "batch", 1: "sequence"}
    axes = {"tokens": sequence, "mask": sequence, "pooled": {0: "batch"}}
    outputs = ("sequence", "embedding", "sequence_mask")
    write_graph(module, inputs(3, 5), axes, outputs, tmp_path / "head.onnx")
    for batch, length in ((1, 2), (4, 7)):
        example = inputs(batch, length)
        results = run(tmp_path / "head.onnx", example)
        with torch.no_grad():
            torch.testing.assert_close(tuple(results), module(example), rtol=0, atol=1e-5)


# --- the folder --------------------------------------------------------------------------------


def test_graphs_are_valid_and_named(exported):
    names = {"vision": "pixel_values", "audio": "input_features", "text": "input_ids"}
    outputs = {"vision": "image_embeds", "audio": "audio_embeds", "text": "text_embeds"}
    for modality, name in names.items():
        model = onnx.load(exported / f"onnx/{modality}_model.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert model.graph.input[0].name == name
        assert [output.name for output in model.graph.output] == [outputs[modality]]
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert metadata == {"opset": "20", "torch": torch.__version__, "model": "Aligner"}
        assert model.opset_import[0].version == 20
        assert b"/" not in b"".join(value for node in model.graph.node for value in traces(node))


def traces(node):
    return [entry.value.encode() for entry in node.metadata_props]


def test_folder_describes_preprocessing(aligner, exported):
    config = json.loads((exported / "preprocessor_config.json").read_text())
    assert config["image_processor_type"] == "CLIPImageProcessor"
    assert config["feature_extractor_type"] == "WhisperFeatureExtractor"
    assert config["size"] == {"height": 32, "width": 32}
    assert config["feature_size"] == 20
    assert json.loads((exported / "config.json").read_text())["dims"] == [16, 8]


def test_exported_tokenizer_pads_and_truncates_as_the_encoder(aligner, exported):
    from tokenizers import Tokenizer

    rows = Tokenizer.from_file(str(exported / "tokenizer.json")).encode_batch(TEXTS)
    inputs = aligner.encoder("text").prepare(TEXTS)
    assert [row.ids for row in rows] == inputs["input_ids"].tolist()
    assert [row.attention_mask for row in rows] == inputs["attention_mask"].tolist()
    assert len(rows[0].ids) == 60


def test_search_script_ranks_pictures_as_torch(aligner, exported, tmp_path):
    """The script in a process of its own, on files of several shapes and modes."""
    images = pictures(3)
    images[1] = images[1].resize((200, 37)).convert("L")
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    command = [sys.executable, exported / "search.py", TEXTS[1], *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    embeddings = F.normalize(aligner.embed("vision", [Image.open(path) for path in paths]), dim=1)
    scores = (embeddings @ F.normalize(aligner.embed("text", TEXTS[1]), dim=1).T)[:, 0]
    expected = {str(path): float(score) for path, score in zip(paths, scores, strict=True)}
    printed = {path: float(score) for score, path in (line.split("  ") for line in lines)}
    assert printed == pytest.approx(expected, abs=6e-4)
    assert list(printed) == sorted(expected, key=expected.get, reverse=True)


SQUARE = {"height": 28, "width": 28}
PROCESSORS = {
    "clip": (CLIPImageProcessorPil, {"size": {"shortest_edge": 28}, "crop_size": SQUARE}),
    "square": (SiglipImageProcessorPil, {"size": SQUARE, "resample": 2}),
    "convnext": (ConvNextImageProcessorPil, {"size": {"shortest_edge": 28}, "crop_pct": 0.8}),
    "convnext-large": (ConvNextImageProcessorPil, {"size": {"shortest_edge": 384}}),
}


def write_identity(path, shape):
    """A graph that returns its pixel_values, a batch of items of that shape."""
    names = ("pixel_values", "copy")
    values = [helper.make_tensor_value_info(name, 1, ["batch", *shape]) for name in names]
    node = helper.make_node("Identity", names[:1], names[1:])
    graph = helper.make_graph([node], "identity", values[:1], values[1:])
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, ir_version=10), path)


@pytest.mark.parametrize("name", PROCESSORS)
def test_search_script_prepares_pictures_as_the_processor(name, tmp_path):
    processor_class, options = PROCESSORS[name]
    processor = processor_class(**options, image_mean=[0.4, 0.5, 0.6])
    images = [pictures(1)[0].resize(size) for size in ((50, 37), (29, 91), (40, 40))]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    pixels = processor(images, return_tensors="np").pixel_values
    write_identity(tmp_path / "onnx/vision_model.onnx", pixels.shape[1:])
    write_json(tmp_path / "preprocessor_config.json", _plain_resize(processor.to_dict()))
    shutil.copy(SCRIPT, tmp_path)
    embed = runpy.run_path(str(tmp_path / "search.py"))["embed_pictures"]
    prepared = embed([tmp_path / f"{number}.png" for number in range(3)])
    np.testing.assert_allclose(prepared, pixels, rtol=0, atol=1e-6)


def test_search_script_sees_pictures_in_their_normal_form(tmp_path):
    unchanged = {"size": {}, "resample": 0, "rescale_factor": 1, "image_mean": 0, "image_std": 1}
    write_identity(tmp_path / "onnx/vision_model.onnx", (3, 9, 9))
    write_json(tmp_path / "preprocessor_config.json", unchanged)
    shutil.copy(SCRIPT, tmp_path)
    embed = runpy.run_path(str(tmp_path / "search.py"))["embed_pictures"]
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        "rgba": rgba,
        "la": rgba.convert("LA"),
        "grey16": Image.fromarray(noise[..., 0].astype(np.uint16) * 250 + 7),
        "palette": rgba.convert("RGB").quantize(8),
        "turned": rgba.convert("RGB"),
    }
    for name, image in images.items():
        path = tmp_path / f"{name}.png"
        image.save(path, exif=exif if name == "turned" else b"")
        expected = np.float32(decode_image(path.read_bytes())).transpose(2, 0, 1)
        np.testing.assert_array_equal(embed([path])[0], expected, name)


def test_search_script_is_short():
    assert len(SCRIPT.read_text().splitlines()) <= 40
    assert "torch" not in SCRIPT.read_text()


# --- errors ------------------------------------------------------------------------------------


def test_load_model_names_several_saved_models(aligner, tmp_path):
    for name in ("plain", "trm"):
        aligner.save_pretrained(tmp_path / f"{name}/checkpoints/best")
    with pytest.raises(ConfigError, match=r"choose one: .*plain/checkpoints/best, .*trm/"):
        load_model(tmp_path)
    with pytest.raises(ConfigError, match="elsewhere: no saved model"):
        load_model(tmp_path / "elsewhere")


def test_load_model_takes_the_last_stage_of_a_run(tmp_path, monkeypatch):
    for stage in ("projector", "lora", "8bit"):  # the last is the same in another precision
        (tmp_path / f"{stage}/checkpoints/best").mkdir(parents=True)
        (tmp_path / f"{stage}/checkpoints/best/vlm.json").touch()
    monkeypatch.setattr("edge_lib.models.vlm.VLM.from_pretrained", lambda folder: folder)
    assert load_model(tmp_path) == tmp_path / "lora/checkpoints/best"


def test_failed_export_leaves_no_folder(aligner, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_lib.export.folder.write_graph", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_model(aligner, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- 8 bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_quantized_embeddings_are_close_to_torch(aligner, exported, modality):
    inputs = aligner.encoder(modality).prepare(items(modality, 5))
    (embeddings,) = run(exported / f"onnx/{modality}_model_quantized.onnx", inputs)
    expected = aligner.embed(modality, items(modality, 5))
    assert F.cosine_similarity(embeddings, expected).min() > 0.98
    model = onnx.load(exported / f"onnx/{modality}_model_quantized.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert "MatMulInteger" in kinds
    assert "ConvInteger" not in kinds, "onnxruntime does not run it"


def test_calibration_texts_are_captions_of_the_run(small_align, tmp_path):
    config = small_align()
    run_folder = Run.create(config, "align", tmp_path).folder
    captions = load_table(config.data, "val").captions
    assert run_captions(run_folder, 5) == captions.take(range(5))
    assert run_captions(tmp_path / "other") == [], "no run"
