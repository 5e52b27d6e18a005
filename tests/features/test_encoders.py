"""Frozen encoders against the models they wrap, from small checkpoints with random weights."""

import json
import os
import random
import shutil
import socket
from hashlib import sha256

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    AutoConfig,
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    ResNetConfig,
    ResNetModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from edge_lib.config import ConfigError, EncoderConfig, ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features import weights as weights_module
from edge_lib.features.audio import _WhisperEncoder
from edge_lib.features.encoder import check_output, load_encoder
from edge_lib.features.weights import (
    check_minilm,
    encoder_fingerprint,
    locate,
    weights_digest,
)
from edge_lib.nn.heads import build_head

SIDE = 32
VIT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SQUARE = {"height": SIDE, "width": SIDE}
NORMALISE = {"do_normalize": True, "image_mean": MEAN, "image_std": STD, "do_rescale": True}
CLIP_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": SQUARE,
    "resample": 3,
}


def clip_two_towers():
    text = {k: v for k, v in VIT.items() if k not in ("image_size", "patch_size")}
    config = CLIPConfig(
        text_config={**text, "vocab_size": 99, "max_position_embeddings": 12},
        vision_config=VIT,
        projection_dim=8,
    )
    return CLIPModel(config)


def resnet():
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    model = ResNetModel(ResNetConfig(**shape, layer_type="basic"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # with the initial statistics, batch norm in evaluation mode changes nothing
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


# name: (model, its class, content of preprocessor_config.json)
CHECKPOINTS = {
    "clip": (lambda: CLIPVisionModel(CLIPVisionConfig(**VIT)), CLIPVisionModel, CLIP_PROCESSOR),
    "clip-two-towers": (clip_two_towers, CLIPModel, CLIP_PROCESSOR),
    "siglip": (
        lambda: SiglipVisionModel(SiglipVisionConfig(**VIT)),
        SiglipVisionModel,
        {"image_processor_type": "SiglipImageProcessor", "size": SQUARE, "resample": 3},
    ),
    "convnext": (
        lambda: ConvNextModel(
            ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], image_size=SIDE)
        ),
        ConvNextModel,
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    ),
    "resnet": (
        resnet,
        ResNetModel,
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    ),
}
FEATURE_MAPS = ("convnext", "resnet")
TEXTS = [
    "a large red three at the top left",
    "two",
    "a small blue seven in the centre, a big green one on the right and a cyan 4 at the bottom",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{name: folder of a checkpoint, with the files of one from the hub}."""
    torch.manual_seed(123)
    folders = {}
    for name, (build, _, processor) in CHECKPOINTS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        build().save_pretrained(folders[name])
        text = json.dumps({**processor, **NORMALISE})
        (folders[name] / "preprocessor_config.json").write_text(text)
    return folders


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    BertConfig(**shape, num_hidden_layers=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def minilm():
    return load_encoder("text", EncoderConfig(encoder="all-MiniLM-L6-v2"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("no network is needed")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def copy(folders, tmp_path):
    """A checkpoint that a test may change."""
    return shutil.copytree(folders["clip"], tmp_path / "copy")


def config(folder, **changes):
    return EncoderConfig(encoder=str(folder), **changes)


def images(count=3, size=(SIDE, SIDE)):
    rng = np.random.default_rng(0)
    shape = (count, size[1], size[0], 3)
    return [Image.fromarray(x) for x in rng.integers(0, 256, shape, dtype=np.uint8)]


def weights(encoder):
    return torch.cat([p.flatten() for p in encoder.parameters()])


# --- vision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_vision_encoder_equals_its_model(folders, name):
    encoder = load_encoder("vision", config(folders[name]))
    features = encoder.prepare(images())
    output = encoder(**features)
    model = CHECKPOINTS[name][1].from_pretrained(folders[name]).eval()
    with torch.no_grad():
        expected = getattr(model, "vision_model", model)(pixel_values=features["pixel_values"])
    tokens, pooled = expected.last_hidden_state, expected.pooler_output
    if name in FEATURE_MAPS:
        batch, channels, height, width = tokens.shape
        assert height == width > 1
        tokens = tokens.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        pooled = pooled.reshape(batch, channels)
    torch.testing.assert_close(output.tokens, tokens, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(output.pooled, pooled, atol=1e-6, rtol=1e-6)
    assert output.mask.shape == tokens.shape[:2]
    assert output.mask.dtype == torch.bool
    assert output.mask.all()
    assert torch.cdist(output.pooled, output.pooled)[0, 1] > 1e-3, "it depends on the pixels"


def test_vision_encoder_normalises_with_the_checkpoint_values(folders):
    encoder = load_encoder("vision", config(folders["clip"]))
    pixels = encoder.prepare(images(2))["pixel_values"]
    raw = np.stack([np.asarray(image) for image in images(2)]) / 255
    expected = torch.from_numpy((raw - MEAN) / STD).float().permute(0, 3, 1, 2)
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=1e-5)


def test_vision_encoder_resizes_and_crops_with_pillow(folders):
    encoder = load_encoder("vision", config(folders["clip"]))
    (image,) = images(1, (120, 64))
    pixels = encoder.prepare([image])["pixel_values"]
    resized = image.resize((60, 32), Image.Resampling.BICUBIC).crop((14, 0, 46, 32))
    expected = torch.from_numpy((np.asarray(resized) / 255 - MEAN) / STD).float()
    torch.testing.assert_close(pixels[0].permute(1, 2, 0), expected, atol=1e-5, rtol=1e-5)


def test_vision_encoder_keeps_images_of_a_batch_independent(folders):
    encoder = load_encoder("vision", config(folders["resnet"]))
    together = encoder(**encoder.prepare(images()))
    alone = [encoder(**encoder.prepare([image])).pooled for image in images()]
    torch.testing.assert_close(torch.cat(alone), together.pooled, atol=1e-6, rtol=1e-5)


def test_vision_encoder_loads_half_precision_as_fp32(folders, tmp_path):
    model = CLIPVisionModel.from_pretrained(folders["clip"]).half()
    model.save_pretrained(tmp_path)
    shutil.copy(folders["clip"] / "preprocessor_config.json", tmp_path)
    assert weights(load_encoder("vision", config(tmp_path))).dtype == torch.float32


@pytest.mark.parametrize("name", ["clip", "resnet", "text"])
def test_encoders_are_frozen_and_stay_in_evaluation_mode(folders, minilm, name):
    encoder = minilm if name == "text" else load_encoder("vision", config(folders[name]))
    whole = nn.Sequential(encoder, nn.Linear(2, 2)).train()
    assert whole[1].training
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(
        **encoder.prepare(TEXTS if name == "text" else images())
    ).pooled.requires_grad


def test_encoder_output_without_tokens_moves_to_a_device(folders):
    encoder = load_encoder("vision", config(folders["clip"]))
    pooled = encoder(**encoder.prepare(images())).pooled
    moved = EncoderOutput(None, None, pooled).to("meta")
    assert (moved.tokens, moved.mask, moved.pooled.device.type) == (None, None, "meta")


# --- text ------------------------------------------------------------------------------------


def test_text_encoder_equals_sentence_transformers(minilm):
    output = minilm(**minilm.prepare(TEXTS))
    expected = SentenceTransformer(str(weights_module.MINILM), device="cpu").encode(TEXTS)
    torch.testing.assert_close(output.pooled, torch.from_numpy(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.pooled.norm(dim=1), torch.ones(3), atol=1e-5, rtol=0)


def test_text_encoder_pools_over_its_mask(minilm):
    output = minilm(**minilm.prepare(TEXTS))
    lengths = [len(minilm.model.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert output.mask.dtype == torch.bool
    assert output.mask.sum(1).tolist() == lengths
    assert output.tokens.shape == (3, max(lengths), 384)
    means = torch.stack([output.tokens[i, :n].mean(0) for i, n in enumerate(lengths)])
    expected = nn.functional.normalize(means, dim=1)
    torch.testing.assert_close(output.pooled, expected, atol=1e-5, rtol=0)


def test_text_encoder_keeps_texts_of_a_batch_independent(minilm):
    together = minilm(**minilm.prepare(TEXTS))
    for row, text in enumerate(TEXTS):
        alone = minilm(**minilm.prepare([text]))
        assert alone.mask.all()
        count = alone.mask.shape[1]
        torch.testing.assert_close(
            together.tokens[row, :count], alone.tokens[0], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(together.pooled[row], alone.pooled[0], atol=1e-5, rtol=0)


def test_text_encoder_truncates_long_texts(minilm):
    output = minilm(**minilm.prepare(["red " * 1000]))
    assert output.mask.shape == (1, minilm.model.max_seq_length)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_minilm_is_shipped_and_needs_no_network(no_network, name):
    assert locate(name) == weights_module.MINILM
    load_encoder("text", EncoderConfig(encoder=name))


def test_minilm_with_another_checksum_is_rejected(tmp_path, monkeypatch):
    check_minilm()
    content = bytearray((weights_module.MINILM / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    monkeypatch.setattr(weights_module, "MINILM", tmp_path)
    monkeypatch.setitem(weights_module.SHIPPED, "all-MiniLM-L6-v2", tmp_path)
    with pytest.raises(RuntimeError, match="not the published"):
        check_minilm()
    with pytest.raises(RuntimeError, match="not the published"):
        load_encoder("text", EncoderConfig(encoder="all-MiniLM-L6-v2"))


# --- names and fingerprints ------------------------------------------------------------------


def test_locate_prefers_shipped_then_local_then_hub_names(folders):
    assert locate(str(folders["clip"])) == folders["clip"]
    assert locate("openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"
    random_clip = locate("openai/clip-vit-base-patch32", "random")
    assert random_clip == weights_module.ASSETS / "architectures" / "clip-vit-base-patch32"
    assert locate("some/model", "random") == "some/model"


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json", "config.json"])
def test_fingerprint_changes_with_each_file_of_the_checkpoint(copy, name):
    before = encoder_fingerprint(config(copy))
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    assert encoder_fingerprint(config(copy)) != before


def test_fingerprint_ignores_other_files_and_times(copy):
    before = encoder_fingerprint(config(copy))
    (copy / "README.md").write_text("a card")
    os.utime(copy / "model.safetensors", (1, 1))
    assert encoder_fingerprint(config(copy)) == before


def test_fingerprint_of_a_copied_folder_is_the_same(copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "other")
    assert encoder_fingerprint(config(copy)) == encoder_fingerprint(config(other))


def test_weights_digest_covers_the_weights_alone(copy, tmp_path):
    before = weights_digest(str(copy))
    (copy / "preprocessor_config.json").write_text("{}")
    assert weights_digest(str(shutil.copytree(copy, tmp_path / "other"))) == before
    (copy / "model.safetensors").write_bytes(b"other weights")
    assert weights_digest(str(copy)) not in (before, "")


def test_weights_digest_is_empty_where_there_is_nothing_to_compare(copy, tiny_bert):
    assert weights_digest(str(copy), weights="random") == ""
    assert weights_digest(str(tiny_bert)) == "", "a folder without weights"
    assert weights_digest("some/model") == "", "a hub model that is not in the cache"


@pytest.mark.parametrize("shared", [False, True], ids=["own file", "shared store"])
def test_weights_digest_of_a_hub_model_equals_that_of_its_folder(
    copy, tmp_path, monkeypatch, shared
):
    """The hub's cache links from a snapshot to files that are named by their SHA-256; these may be
    links to a store that repositories share, with names of another kind.
    """
    cache = tmp_path / "cache/models--some--model"
    snapshot = cache / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("abc")
    shutil.copy(copy / "config.json", snapshot)
    blob = cache / "blobs" / sha256((copy / "model.safetensors").read_bytes()).hexdigest()
    file = tmp_path / ("0" * 64) if shared else blob
    file.write_bytes(b"not read")
    if shared:
        blob.symlink_to(file)
    (snapshot / "model.safetensors").symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert weights_digest("some/model") == weights_digest(str(copy))


# another valid value of each key; a new key needs one here
OTHER_VALUES = {
    "encoder": "tiny-resnet",
    "revision": "abc",
    "weights": "random",
    "layer": 1,
    "merge_layers": "concat",
    "tokens": "patch",
    "pooled": "mean",
    "augment": True,
    "head": "maxsim",
    "pooler": "perceiver",
    "window": 2,
    "num_latents": 3,
    "num_layers": 2,
    "num_heads": 2,
    "adapter": "linear",
    "width": 32,
    "dropout": 0.5,
}


@pytest.mark.parametrize("key", ModalityConfig.model_fields)
def test_fingerprint_changes_with_the_keys_of_the_encoder_alone(copy, key):
    base = {"encoder": str(copy), "pooler": "tokens"}  # which every head takes
    modality, changed = ModalityConfig(**base), ModalityConfig(**base | {key: OTHER_VALUES[key]})
    assert changed != modality
    one, two = (encoder_fingerprint(m.encoder_config) for m in (modality, changed))
    assert (one != two) == (key in EncoderConfig.model_fields)


# --- random weights --------------------------------------------------------------------------


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_random_weights_are_the_same_each_time(folders, tiny_bert, no_network, modality):
    folder = folders["clip"] if modality == "vision" else tiny_bert
    encoders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = states()
        encoders.append(load_encoder(modality, config(folder, weights="random")))
        assert states() == before, "the caller's generators are unchanged"
    assert torch.equal(*map(weights, encoders))
    inputs = images() if modality == "vision" else TEXTS
    one, two = (encoder(**encoder.prepare(inputs)) for encoder in encoders)
    assert torch.equal(one.pooled, two.pooled)
    assert one.pooled.std() > 0
    assert one.mask.shape == one.tokens.shape[:2]


def test_random_weights_differ_from_the_saved_ones(folders):
    saved, fresh = (
        load_encoder("vision", config(folders["clip"], weights=kind))
        for kind in ("pretrained", "random")
    )
    assert not torch.allclose(weights(saved), weights(fresh))


def test_random_text_encoder_pools_over_its_mask(tiny_bert):
    encoder = load_encoder("text", config(tiny_bert, weights="random"))
    output = encoder(**encoder.prepare(TEXTS))
    means = [output.tokens[i][output.mask[i]].mean(0) for i in range(3)]
    torch.testing.assert_close(output.pooled, torch.stack(means), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("modality", "name", "tokens", "pooled"),
    [
        ("vision", "openai/clip-vit-base-patch32", (1, 50, 768), (1, 768)),
        ("text", "sentence-transformers/all-mpnet-base-v2", (1, 3, 768), (1, 768)),
    ],
    ids=["clip", "mpnet"],
)
def test_shipped_architectures_need_no_network(no_network, modality, name, tokens, pooled):
    encoder = load_encoder(modality, EncoderConfig(encoder=name, weights="random"))
    output = encoder(**encoder.prepare(images(1) if modality == "vision" else ["two"]))
    assert (output.tokens.shape, output.pooled.shape) == (tokens, pooled)
    assert output.pooled.isfinite().all()


def test_shipped_clip_large_is_vit_l_14_at_336():
    name = "openai/clip-vit-large-patch14-336"
    folder = locate(name, "random")
    shape = AutoConfig.from_pretrained(folder)
    shape = getattr(shape, "vision_config", shape)
    assert (shape.hidden_size, shape.num_hidden_layers, shape.num_attention_heads) == (1024, 24, 16)
    assert (shape.patch_size, shape.image_size) == (14, 336)
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["crop_size"] == {"height": 336, "width": 336}
    assert processor["size"] == {"shortest_edge": 336}


# --- audio -----------------------------------------------------------------------------------

WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "num_mel_bins": 20,
    "max_source_positions": 100,
    "vocab_size": 9,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def whisper_extractor():
    return WhisperFeatureExtractor(feature_size=20, hop_length=160, chunk_length=2)


@pytest.fixture(scope="module", params=["encoder", "whole", "with head"])
def whisper(request, tmp_path_factory):
    """A folder with a Whisper in one of its published forms, and its encoder."""
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**WHISPER)).eval()
    kinds = {"encoder": model.model.encoder, "whole": model.model, "with head": model}
    folder = tmp_path_factory.mktemp("whisper")
    kinds[request.param].save_pretrained(folder)
    whisper_extractor().save_pretrained(folder)
    return folder, model.model.encoder


def noise(seconds, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(16000 * seconds)).astype(np.float32)


def audio(folder, **options):
    return load_encoder("audio", EncoderConfig(encoder=str(folder), **options))


def test_whisper_equals_transformers(whisper):
    folder, model = whisper
    encoder, clips = audio(folder), [noise(0.7), noise(1.6, 1)]
    output = encoder(**encoder.prepare(clips))
    features = whisper_extractor()(clips, sampling_rate=16000, return_tensors="pt")
    expected = model(features.input_features).last_hidden_state
    assert output.mask.sum(1).tolist() == [35, 80]  # a token each 20 ms
    assert torch.equal(output.tokens[output.mask], expected[output.mask])
    means = [tokens[mask].mean(0) for tokens, mask in zip(expected, output.mask, strict=True)]
    torch.testing.assert_close(output.pooled, torch.stack(means))
    assert not any(p.requires_grad for p in encoder.parameters())


def test_whisper_keeps_clips_of_a_batch_independent(whisper):
    encoder = audio(whisper[0])
    clips = [noise(0.5), noise(1.9, 1), noise(5.0, 2)]
    together = encoder(**encoder.prepare(clips))
    for row, clip in enumerate(clips):
        alone = encoder(**encoder.prepare([clip]))
        torch.testing.assert_close(alone.pooled[0], together.pooled[row])
        torch.testing.assert_close(alone.tokens[0], together.tokens[row])


def test_whisper_padding_changes_no_head(whisper):
    encoder = audio(whisper[0])
    output = encoder(**encoder.prepare([noise(0.5), noise(1.0, 1)]))
    garbage = output.tokens.masked_fill(~output.mask[..., None], 1e3)
    for pooler in ("mean", "attention", "perceiver"):
        head = build_head(ModalityConfig(encoder="x", pooler=pooler, width=8), [4], 16, 16)
        padded = EncoderOutput(garbage, output.mask, output.pooled)
        torch.testing.assert_close(head(padded)[1], head(output)[1])


def test_whisper_truncates_clips_over_its_window(whisper):
    encoder, long = audio(whisper[0]), noise(60)
    assert [encoder.truncates(clip) for clip in (noise(1.9), noise(2.0), long)] == [
        False,
        False,
        True,
    ]
    output = encoder(**encoder.prepare([long]))
    expected = encoder(**encoder.prepare([long[:32000]]))
    assert torch.equal(output.tokens, expected.tokens)
    assert output.mask.all()


def test_ast_equals_transformers(tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ASTModel(ASTConfig(**shape, intermediate_size=24, max_length=100)).eval()
    model.save_pretrained(tmp_path)
    extractor = ASTFeatureExtractor(max_length=100)
    extractor.save_pretrained(tmp_path)
    encoder, clips = audio(tmp_path), [noise(0.5), noise(0.9, 1)]
    output = encoder(**encoder.prepare(clips))
    expected = model(**extractor(clips, sampling_rate=16000, return_tensors="pt"))
    assert torch.equal(output.tokens, expected.last_hidden_state)
    assert torch.equal(output.pooled, expected.pooler_output)
    assert [encoder.truncates(clip) for clip in (noise(1.0), noise(1.1))] == [False, True]


def test_audio_encoder_rejects_other_model_types(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a bert; audio encoders:"):
        audio(tmp_path)


def test_shipped_whisper_large_has_the_published_size():
    architecture = AutoConfig.from_pretrained(locate("openai/whisper-large-v3", "random"))
    with torch.device("meta"):
        encoder = _WhisperEncoder(architecture)
    assert sum(p.numel() for p in encoder.parameters()) == 636_968_960
    assert encoder.conv1.weight.shape == (1280, 128, 3)


@pytest.mark.parametrize(
    ("modality", "name"),
    [("vision", "all-MiniLM-L6-v2"), ("vision", "tiny-whisper"), ("text", "efficientnet-lite0")],
)
def test_encoder_of_another_modality_is_refused_in_one_line(modality, name):
    with pytest.raises(ConfigError, match=f"^{name} cannot be loaded for {modality}: .") as error:
        load_encoder(modality, EncoderConfig(encoder=name))
    assert "\n" not in str(error.value)


def test_missing_layer_names_its_modality():
    config = EncoderConfig(encoder="tiny-resnet", layer=99)
    with pytest.raises(ConfigError, match=r"^vision: tiny-resnet: layer 99: "):
        check_output("vision", config)
