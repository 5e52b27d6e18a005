"""Layers, tokens and pooled vectors of frozen encoders, against the models' own hidden states."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ResNetConfig,
    ResNetModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from edge_lib.config import ConfigError, EncoderConfig, ModalityConfig
from edge_lib.features.audio import _WhisperEncoder
from edge_lib.features.encoder import load_encoder, run_encoder
from edge_lib.features.onnx import OnnxEncoder
from edge_lib.nn.heads import build_head

SQUARE = {"height": 32, "width": 32}
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": SQUARE}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def images(count=3):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return [Image.fromarray(x) for x in pixels]


def save_vision(model, folder):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture(scope="module")
def registers(tmp_path_factory):
    """A folder with a ViT of a class token, four registers and 4 x 4 patches."""
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(**VIT, image_size=32, patch_size=8, num_register_tokens=4)
    return save_vision(Dinov2WithRegistersModel(config), tmp_path_factory.mktemp("registers"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A folder with a CNN of maps (8, 8, 8), (8, 8, 8) and (16, 4, 4)."""
    torch.manual_seed(0)
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    model = ResNetModel(ResNetConfig(**shape, layer_type="basic"))
    return save_vision(model, tmp_path_factory.mktemp("resnet"))


def encode(modality, folder, items, **choice):
    encoder = load_encoder(modality, EncoderConfig(encoder=str(folder), **choice))
    inputs = encoder.prepare(items)
    return encoder(**inputs), inputs


def hidden_states(model, **inputs):
    with torch.no_grad():
        return model.eval()(**inputs, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("layer", [-3, -2, 0, 1, 2, -1])
def test_layer_of_clip_is_the_models_hidden_state(tiny_vision, layer):
    output, inputs = encode("vision", tiny_vision, images(), layer=layer)
    expected = hidden_states(CLIPVisionModel.from_pretrained(tiny_vision), **inputs)[layer]
    torch.testing.assert_close(output.tokens, expected)
    torch.testing.assert_close(output.pooled, expected[:, 1:].mean(1), msg="without class token")
    assert output.grid == (2, 2)


@pytest.mark.parametrize("merge", ["mean", "concat"])
def test_list_of_layers_is_merged(tiny_vision, merge):
    output, inputs = encode("vision", tiny_vision, images(), layer=[-2, 2], merge_layers=merge)
    states = hidden_states(CLIPVisionModel.from_pretrained(tiny_vision), **inputs)
    both = states[1], states[2]
    expected = sum(both) / 2 if merge == "mean" else torch.cat(both, dim=2)
    torch.testing.assert_close(output.tokens, expected)
    torch.testing.assert_close(output.pooled, expected[:, 1:].mean(1))


@pytest.mark.parametrize(
    ("tokens", "first", "last"), [("all", 0, 21), ("patch", 5, 21), ("cls", 0, 1)]
)
def test_tokens_of_a_vit_with_registers(registers, tokens, first, last):
    output, inputs = encode("vision", registers, images(), tokens=tokens)
    with torch.no_grad():
        expected = Dinov2WithRegistersModel.from_pretrained(registers).eval()(**inputs)
    torch.testing.assert_close(output.tokens, expected.last_hidden_state[:, first:last])
    torch.testing.assert_close(output.pooled, expected.pooler_output, msg="the encoder's own")
    assert output.mask.shape == output.tokens.shape[:2]
    assert output.grid == (None if tokens == "cls" else (4, 4))


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("pooled", ["mean", "cls", "cls_mean"])
def test_pooled_vector_of_a_vit_with_registers(registers, pooled, layer):
    output, inputs = encode("vision", registers, images(), pooled=pooled, layer=layer)
    with torch.no_grad():
        model = Dinov2WithRegistersModel.from_pretrained(registers).eval()
        states = model(**inputs, output_hidden_states=True)
    tokens = states.last_hidden_state if layer is None else states.hidden_states[layer]
    cls, mean = tokens[:, 0], tokens[:, 5:].mean(1)
    expected = {"mean": mean, "cls": cls, "cls_mean": torch.cat([cls, mean], 1)}[pooled]
    torch.testing.assert_close(output.pooled, expected)


def test_siglip_has_patches_but_no_class_token(tmp_path):
    """Where a class token is taken for granted, the first patch is lost."""
    torch.manual_seed(0)
    model = SiglipVisionModel(SiglipVisionConfig(**VIT, image_size=32, patch_size=8))
    folder = save_vision(model, tmp_path)
    output, inputs = encode("vision", folder, images(), layer=-2, tokens="patch", pooled="mean")
    expected = hidden_states(model, **inputs)[-2]
    torch.testing.assert_close(output.tokens, expected)
    torch.testing.assert_close(output.pooled, expected.mean(1))
    with pytest.raises(ConfigError, match="no known class token"):
        encode("vision", folder, images(), tokens="cls")


def test_patches_of_clip_can_be_squared(tiny_vision):
    """With the class token, 5 tokens are no square."""
    config = ModalityConfig(encoder=str(tiny_vision), tokens="patch", pooler="tokens", window=2)
    output, _ = encode("vision", tiny_vision, images(), tokens="patch")
    sequence, _ = build_head(config, [4], 16, 16)(output)
    assert sequence.shape == (3, 1, 4)
    output, _ = encode("vision", tiny_vision, images())
    with pytest.raises(ValueError, match=r"5 tokens do not form a square grid.*tokens: patch"):
        build_head(config, [4], 16, 16)(output)


@pytest.mark.parametrize("tokens", ["patch", "all"])
def test_squares_of_features_leave_the_class_token_where_it_is_kept(registers, tokens):
    encoder = load_encoder("vision", EncoderConfig(encoder=str(registers), tokens=tokens))
    inputs = encoder.prepare(images())
    whole, squares = encoder(**inputs), run_encoder(encoder, inputs, "fp32", window=2)
    first = 0 if tokens == "patch" else 5
    patches = whole.tokens[:, first:].unflatten(1, (4, 4))
    expected = patches.unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2)).flatten(1, 2)
    torch.testing.assert_close(squares.tokens[:, first:], expected)
    assert torch.equal(squares.tokens[:, :first], whole.tokens[:, :first])


def test_maps_of_a_cnn_are_concatenated_at_the_smallest_size(resnet):
    output, inputs = encode("vision", resnet, images(), layer=[0, -1], merge_layers="concat")
    stem, last = (hidden_states(ResNetModel.from_pretrained(resnet), **inputs)[i] for i in (0, -1))
    small = stem.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    expected = torch.cat([small, last], 1).flatten(2).transpose(1, 2)
    assert output.grid == (4, 4)
    torch.testing.assert_close(output.tokens, expected)
    torch.testing.assert_close(output.pooled[:, :8], stem.mean((2, 3)))


def test_layer_of_a_cnn_is_a_sequence_of_its_size(resnet):
    output, inputs = encode("vision", resnet, images(), layer=1, tokens="patch")
    expected = hidden_states(ResNetModel.from_pretrained(resnet), **inputs)[1]
    torch.testing.assert_close(output.tokens, expected.flatten(2).transpose(1, 2))
    assert (output.grid, output.mask.shape) == ((8, 8), (3, 64))


def test_layers_of_text_equal_hidden_states_on_valid_tokens():
    texts = ["a large red three at the top left", "two"]
    own, _ = encode("text", "all-MiniLM-L6-v2", texts)
    output, inputs = encode("text", "all-MiniLM-L6-v2", texts, layer=-2)
    encoder = load_encoder("text", EncoderConfig(encoder="all-MiniLM-L6-v2"))
    expected = hidden_states(encoder.model[0].model, **inputs)[5]
    torch.testing.assert_close(output.tokens[output.mask], expected[output.mask])
    assert not output.tokens[~output.mask].any()
    torch.testing.assert_close(output.pooled[1], expected[1, :3].mean(0))
    last, _ = encode("text", "all-MiniLM-L6-v2", texts, layer=-1)
    pooled = torch.nn.functional.normalize(last.pooled)
    torch.testing.assert_close(pooled, own.pooled, msg="it averages its last layer as well")


def test_layers_of_whisper_are_masked(tiny_audio):
    clips = [np.random.default_rng(n).normal(0, 0.1, 16000 // n).astype("f") for n in (1, 2)]
    output, inputs = encode("audio", tiny_audio, clips, layer=1)
    mask = inputs.pop("attention_mask")[:, ::2].bool()
    expected = hidden_states(_WhisperEncoder.from_pretrained(tiny_audio), **inputs)[1]
    assert 0 < mask[1].sum() < mask[0].sum() < len(mask[0])
    torch.testing.assert_close(output.tokens[mask], expected[mask])
    torch.testing.assert_close(output.pooled[1], expected[1][mask[1]].mean(0))


def test_tokens_and_layers_of_ast(tmp_path):
    torch.manual_seed(0)
    model = ASTModel(ASTConfig(**VIT, max_length=100))
    model.save_pretrained(tmp_path)
    ASTFeatureExtractor(max_length=100).save_pretrained(tmp_path)
    clips = [np.random.default_rng(0).normal(0, 0.1, 8000).astype("f")] * 2
    output, inputs = encode("audio", tmp_path, clips, layer=1, tokens="patch", pooled="cls_mean")
    expected = hidden_states(model, **inputs)[1]
    torch.testing.assert_close(output.tokens, expected[:, 2:], msg="class, distillation token")
    mean = expected[:, 2:].mean(1)
    torch.testing.assert_close(output.pooled, torch.cat([expected[:, 0], mean], 1))
    assert output.grid[0] * output.grid[1] == output.tokens.shape[1]


@pytest.mark.parametrize(
    ("modality", "name", "choice", "message"),
    [
        ("text", "all-MiniLM-L6-v2", {"layer": 7}, r"layer 7: its layers are 0 .* 6, or -7, "),
        ("text", "all-MiniLM-L6-v2", {"layer": [1, -8]}, "layer -8"),
        ("text", "all-MiniLM-L6-v2", {"tokens": "cls"}, "tokens=cls: it has no known class token"),
        ("text", "all-MiniLM-L6-v2", {"tokens": "patch"}, "tokens form no known grid"),
        ("vision", "tiny-resnet", {"pooled": "cls_mean"}, "pooled=cls_mean: it has no known"),
        ("vision", "tiny-resnet", {"layer": [2, 3]}, "widths 64, 128 have no mean.*concat"),
        ("audio", "tiny-whisper", {"layer": 2, "pooled": "cls"}, "no known class token"),
    ],
    ids=["beyond", "list", "text cls", "text patch", "cnn cls", "cnn mean", "whisper cls"],
)
def test_encoder_refuses_what_it_does_not_have_when_loaded(modality, name, choice, message):
    with pytest.raises(ConfigError, match=rf"^{name}: .*{message}"):
        load_encoder(modality, EncoderConfig(encoder=name, **choice))


@pytest.mark.parametrize(
    "choice",
    [{"layer": 0}, {"layer": [3, 8, 16], "merge_layers": "concat"}],
    ids=["one", "several"],
)
def test_layers_of_efficientnet(choice):
    blank = [Image.new("RGB", (224, 224), "red"), *images(1)]
    output, inputs = encode("vision", "efficientnet-lite0", blank, weights="random", **choice)
    encoder = load_encoder("vision", EncoderConfig(encoder="efficientnet-lite0", weights="random"))
    states = []
    for module in encoder.model.network._blocks:
        module.register_forward_hook(lambda module, args, state: states.append((args[0], state)))
    encoder(**inputs)
    maps = [states[0][0], *(state for _, state in states)]
    layers = choice["layer"] if "merge_layers" in choice else [0]
    expected = torch.cat([maps[layer].mean((2, 3)) for layer in layers], 1)
    torch.testing.assert_close(output.pooled, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("modality", "choice"),
    [
        ("vision", {"layer": [-2, -1], "tokens": "patch", "pooled": "cls_mean"}),
        ("vision", {"layer": -2, "tokens": "cls"}),
        ("text", {"layer": [1, 2], "merge_layers": "concat"}),
    ],
    ids=["patches", "class token", "text"],
)
def test_graph_gives_the_same_layers(registers, tiny_text, tmp_path, modality, choice):
    folder = registers if modality == "vision" else tiny_text
    config = EncoderConfig(encoder=str(folder), **choice)
    encoder = load_encoder(modality, config)
    inputs = encoder.prepare(images(2) if modality == "vision" else ["a word or two", "a"])
    output, expected = OnnxEncoder(modality, encoder, config, tmp_path)(**inputs), encoder(**inputs)
    assert (output.grid, output.tokens.shape) == (expected.grid, expected.tokens.shape)
    torch.testing.assert_close(output.tokens, expected.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.pooled, expected.pooled, rtol=1e-4, atol=1e-5)
