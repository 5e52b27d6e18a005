"""Frozen encoders against the models they wrap, from small checkpoints with random weights."""

import json
import os
import random
import shutil
import socket

import numpy as np
import pytest
import torch
from edge_lib.features.encoders import load_encoder
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

from edge_lib.config import ConfigError, ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features import weights as pretrained
from edge_lib.features.audio import _WhisperEncoder
from edge_lib.features.weights import check_minilm, encoder_fingerprint, locate
from edge_lib.nn.heads import ModalityHead

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
            # else evaluation mode would not differ from no normalisation at all
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


# name: (model, its class, what the hub's preprocessor_config.json says)
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
    """{name: folder of a checkpoint, as one from the hub looks}."""
    torch.manual_seed(123)
    made = {}
    for name, (build, _, processor) in CHECKPOINTS.items():
        made[name] = tmp_path_factory.mktemp(name)
        build().save_pretrained(made[name])
        text = json.dumps({**processor, **NORMALISE})
        (made[name] / "preprocessor_config.json").write_text(text)
    return made


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    BertConfig(**shape, num_hidden_layers=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def minilm():
    return load_encoder("text", ModalityConfig(encoder="all-MiniLM-L6-v2"))


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
    return ModalityConfig(encoder=str(folder), **changes)


def images(count=3, size=(SIDE, SIDE)):
    rng = np.random.default_rng(0)
    shape = (count, size[1], size[0], 3)
    return [Image.fromarray(x) for x in rng.integers(0, 256, shape, dtype=np.uint8)]


def weights(encoder):
    return torch.cat([p.flatten() for p in encoder.parameters()])


# --- vision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_vision_equals_the_model_it_wraps(folders, name):
    encoder = load_encoder("vision", config(folders[name]))
    features = encoder.prepare(images())
    encoded = encoder(**features)
    model = CHECKPOINTS[name][1].from_pretrained(folders[name]).eval()
    with torch.no_grad():
        output = getattr(model, "vision_model", model)(pixel_values=features["pixel_values"])
    tokens, pooled = output.last_hidden_state, output.pooler_output
    if name in FEATURE_MAPS:
        batch, channels, height, width = tokens.shape
        assert height == width > 1
        tokens = tokens.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        pooled = pooled.reshape(batch, channels)
    torch.testing.assert_close(encoded.tokens, tokens, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(encoded.pooled, pooled, atol=1e-6, rtol=1e-6)
    assert encoded.mask.shape == tokens.shape[:2]
    assert encoded.mask.dtype == torch.bool
    assert encoded.mask.all()
    assert torch.cdist(encoded.pooled, encoded.pooled)[0, 1] > 1e-3, "it looks at the pixels"


def test_pixels_are_normalised_as_the_checkpoint_says(folders):
    encoder = load_encoder("vision", config(folders["clip"]))
    pixels = encoder.prepare(images(2))["pixel_values"]
    raw = np.stack([np.asarray(image) for image in images(2)]) / 255
    expected = torch.from_numpy((raw - MEAN) / STD).float().permute(0, 3, 1, 2)
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=1e-5)


def test_images_of_other_sizes_are_resized_and_cropped_by_pillow(folders):
    encoder = load_encoder("vision", config(folders["clip"]))
    (image,) = images(1, (120, 64))
    pixels = encoder.prepare([image])["pixel_values"]
    resized = image.resize((60, 32), Image.Resampling.BICUBIC).crop((14, 0, 46, 32))
    expected = torch.from_numpy((np.asarray(resized) / 255 - MEAN) / STD).float()
    torch.testing.assert_close(pixels[0].permute(1, 2, 0), expected, atol=1e-5, rtol=1e-5)


def test_images_of_a_batch_do_not_see_one_another(folders):
    encoder = load_encoder("vision", config(folders["resnet"]))
    together = encoder(**encoder.prepare(images()))
    alone = [encoder(**encoder.prepare([image])).pooled for image in images()]
    torch.testing.assert_close(torch.cat(alone), together.pooled, atol=1e-6, rtol=1e-5)


def test_half_precision_checkpoints_load_in_single(folders, tmp_path):
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


def test_encoded_moves_with_what_it_lacks(folders):
    encoder = load_encoder("vision", config(folders["clip"]))
    pooled = encoder(**encoder.prepare(images())).pooled
    moved = EncoderOutput(None, None, pooled).to("meta")
    assert (moved.tokens, moved.mask, moved.pooled.device.type) == (None, None, "meta")


# --- text ------------------------------------------------------------------------------------


def test_text_equals_sentence_transformers(minilm):
    encoded = minilm(**minilm.prepare(TEXTS))
    expected = SentenceTransformer(str(pretrained.MINILM), device="cpu").encode(TEXTS)
    torch.testing.assert_close(encoded.pooled, torch.from_numpy(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.pooled.norm(dim=1), torch.ones(3), atol=1e-5, rtol=0)


def test_text_mask_covers_the_tokens_and_pools_to_the_sentence(minilm):
    encoded = minilm(**minilm.prepare(TEXTS))
    lengths = [len(minilm.model.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert encoded.mask.dtype == torch.bool
    assert encoded.mask.sum(1).tolist() == lengths
    assert encoded.tokens.shape == (3, max(lengths), 384)
    means = torch.stack([encoded.tokens[i, :n].mean(0) for i, n in enumerate(lengths)])
    expected = nn.functional.normalize(means, dim=1)
    torch.testing.assert_close(encoded.pooled, expected, atol=1e-5, rtol=0)


def test_neighbours_and_their_padding_change_nothing(minilm):
    together = minilm(**minilm.prepare(TEXTS))
    for row, text in enumerate(TEXTS):
        alone = minilm(**minilm.prepare([text]))
        assert alone.mask.all()
        count = alone.mask.shape[1]
        torch.testing.assert_close(
            together.tokens[row, :count], alone.tokens[0], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(together.pooled[row], alone.pooled[0], atol=1e-5, rtol=0)


def test_long_texts_are_cut_to_what_the_model_reads(minilm):
    encoded = minilm(**minilm.prepare(["red " * 1000]))
    assert encoded.mask.shape == (1, minilm.model.max_seq_length)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_minilm_is_shipped_and_needs_no_network(no_network, name):
    assert locate(name) == pretrained.MINILM
    load_encoder("text", ModalityConfig(encoder=name))


def test_a_tampered_minilm_is_refused(tmp_path, monkeypatch):
    check_minilm()
    content = bytearray((pretrained.MINILM / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    monkeypatch.setattr(pretrained, "MINILM", tmp_path)
    monkeypatch.setitem(pretrained.SHIPPED, "all-MiniLM-L6-v2", tmp_path)
    with pytest.raises(RuntimeError, match="not the published"):
        check_minilm()
    with pytest.raises(RuntimeError, match="not the published"):
        load_encoder("text", ModalityConfig(encoder="all-MiniLM-L6-v2"))


# --- names and identities --------------------------------------------------------------------


def test_names_are_looked_for_among_shipped_then_local_then_the_hub(folders):
    assert locate(str(folders["clip"])) == folders["clip"]
    assert locate("openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"
    random_clip = locate("openai/clip-vit-base-patch32", "random")
    assert random_clip == pretrained.ASSETS / "architectures" / "clip-vit-base-patch32"
    assert locate("some/model", "random") == "some/model"


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json", "config.json"])
def test_identity_follows_the_files_that_matter(copy, name):
    before = encoder_fingerprint(config(copy))
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    assert encoder_fingerprint(config(copy)) != before


def test_identity_ignores_all_else(copy):
    before = encoder_fingerprint(config(copy))
    (copy / "README.md").write_text("a card")
    os.utime(copy / "model.safetensors", (1, 1))
    assert encoder_fingerprint(config(copy)) == before
    assert (
        encoder_fingerprint(config(copy, pooler="mean", num_latents=3, dropout=0.5, width=32))
        == before
    )
    assert encoder_fingerprint(config(copy, weights="random")) != before


# --- random weights --------------------------------------------------------------------------


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_random_weights_are_the_same_each_time(folders, tiny_bert, no_network, modality):
    folder = folders["clip"] if modality == "vision" else tiny_bert
    built = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = states()
        built.append(load_encoder(modality, config(folder, weights="random")))
        assert states() == before, "the caller's random numbers go on as if nothing had been"
    assert torch.equal(*map(weights, built))
    inputs = images() if modality == "vision" else TEXTS
    one, two = (encoder(**encoder.prepare(inputs)) for encoder in built)
    assert torch.equal(one.pooled, two.pooled)
    assert one.pooled.std() > 0
    assert one.mask.shape == one.tokens.shape[:2]


def test_random_weights_are_not_the_saved_ones(folders):
    saved, fresh = (
        load_encoder("vision", config(folders["clip"], weights=kind))
        for kind in ("pretrained", "random")
    )
    assert not torch.allclose(weights(saved), weights(fresh))


def test_random_text_is_pooled_over_its_own_tokens(tiny_bert):
    encoder = load_encoder("text", config(tiny_bert, weights="random"))
    encoded = encoder(**encoder.prepare(TEXTS))
    means = [encoded.tokens[i][encoded.mask[i]].mean(0) for i in range(3)]
    torch.testing.assert_close(encoded.pooled, torch.stack(means), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("modality", "name", "tokens", "pooled"),
    [
        ("vision", "openai/clip-vit-base-patch32", (1, 50, 768), (1, 768)),
        ("text", "sentence-transformers/all-mpnet-base-v2", (1, 3, 768), (1, 768)),
    ],
    ids=["clip", "mpnet"],
)
def test_shipped_architectures_need_no_hub(no_network, modality, name, tokens, pooled):
    encoder = load_encoder(modality, ModalityConfig(encoder=name, weights="random"))
    encoded = encoder(**encoder.prepare(images(1) if modality == "vision" else ["two"]))
    assert (encoded.tokens.shape, encoded.pooled.shape) == (tokens, pooled)
    assert encoded.pooled.isfinite().all()


def test_the_large_architecture_is_vit_l_14_at_336():
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
    """A folder with a Whisper as it is found, and its encoder."""
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
    return load_encoder("audio", ModalityConfig(encoder=str(folder), **options))


def test_whisper_gives_what_transformers_gives(whisper):
    folder, model = whisper
    encoder, clips = audio(folder), [noise(0.7), noise(1.6, 1)]
    found = encoder(**encoder.prepare(clips))
    features = whisper_extractor()(clips, sampling_rate=16000, return_tensors="pt")
    expected = model(features.input_features).last_hidden_state
    assert found.mask.sum(1).tolist() == [35, 80]  # a token each 20 ms
    assert torch.equal(found.tokens[found.mask], expected[found.mask])
    means = [tokens[mask].mean(0) for tokens, mask in zip(expected, found.mask, strict=True)]
    torch.testing.assert_close(found.pooled, torch.stack(means))
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_clip_is_heard_alike_in_any_company(whisper):
    encoder = audio(whisper[0])
    clips = [noise(0.5), noise(1.9, 1), noise(5.0, 2)]
    together = encoder(**encoder.prepare(clips))
    for row, clip in enumerate(clips):
        alone = encoder(**encoder.prepare([clip]))
        torch.testing.assert_close(alone.pooled[0], together.pooled[row])
        torch.testing.assert_close(alone.tokens[0], together.tokens[row])


def test_padding_never_reaches_a_head(whisper):
    encoder = audio(whisper[0])
    found = encoder(**encoder.prepare([noise(0.5), noise(1.0, 1)]))
    garbage = found.tokens.masked_fill(~found.mask[..., None], 1e3)
    for pooler in ("mean", "attention", "perceiver"):
        head = ModalityHead(ModalityConfig(encoder="x", pooler=pooler, width=8), [4], 16, 16)
        clean = head(found)[1]
        torch.testing.assert_close(head(EncoderOutput(garbage, found.mask, found.pooled))[1], clean)


def test_a_clip_over_the_window_is_cut_and_said_to_be(whisper):
    encoder, long = audio(whisper[0]), noise(60)
    assert [encoder.truncates(clip) for clip in (noise(1.9), noise(2.0), long)] == [
        False,
        False,
        True,
    ]
    found = encoder(**encoder.prepare([long]))
    expected = encoder(**encoder.prepare([long[:32000]]))
    assert torch.equal(found.tokens, expected.tokens)
    assert found.mask.all()


def test_audio_spectrogram_transformer(tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ASTModel(ASTConfig(**shape, intermediate_size=24, max_length=100)).eval()
    model.save_pretrained(tmp_path)
    extractor = ASTFeatureExtractor(max_length=100)
    extractor.save_pretrained(tmp_path)
    encoder, clips = audio(tmp_path), [noise(0.5), noise(0.9, 1)]
    found = encoder(**encoder.prepare(clips))
    expected = model(**extractor(clips, sampling_rate=16000, return_tensors="pt"))
    assert torch.equal(found.tokens, expected.last_hidden_state)
    assert torch.equal(found.pooled, expected.pooler_output)
    assert [encoder.truncates(clip) for clip in (noise(1.0), noise(1.1))] == [False, True]


def test_other_audio_models_are_refused_by_name(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a bert; audio encoders:"):
        audio(tmp_path)


def test_random_whisper_large_is_the_published_shape():
    architecture = AutoConfig.from_pretrained(locate("openai/whisper-large-v3", "random"))
    with torch.device("meta"):
        encoder = _WhisperEncoder(architecture)
    assert sum(p.numel() for p in encoder.parameters()) == 636_968_960
    assert encoder.conv1.weight.shape == (1280, 128, 3)
