"""The aligner: embeddings of raw items and of stored features, loss, saving and loading."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edge_lib.config import ConfigError, ModalityConfig, load_config
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.image import decode_image, normalize_image
from edge_lib.experiments.align import AlignmentTask, embed_table
from edge_lib.features.extract import write_features
from edge_lib.features.online import open_features
from edge_lib.features.store import open_stores
from edge_lib.models import Aligner
from edge_lib.nn.losses import info_nce
from edge_lib.sources import load_table

TEXTS = ["a large red three at the top", "a small blue seven in the centre"]


@pytest.fixture(scope="module")
def config(small_align):
    config = small_align("features.dtype=float32")
    write_features(config.data, config.feature_spec)
    return config


@pytest.fixture
def three_modalities():
    """An aligner of vision, audio and text with the backbones that ship."""
    shipped = {"vision": "tiny-resnet", "audio": "tiny-whisper", "text": "all-MiniLM-L6-v2"}
    modalities = {name: ModalityConfig(encoder=encoder) for name, encoder in shipped.items()}
    return Aligner(
        modalities, [16, 8], {"vision": (128, 128), "audio": (128, 128), "text": (384, 384)}
    )


def batches(config):
    table = load_table(config.data, "train")
    features = open_features(config.feature_spec, table)
    options = config.seed, config.data.missing, config.data.hard_negatives
    return AlignmentBatches(table, features, config.train, *options)


# --- saving and loading ----------------------------------------------------------------------


def test_aligner_loads_with_the_same_embeddings(aligner, tmp_path):
    aligner.save_pretrained(tmp_path / "aligner")
    aligner.save_pretrained(tmp_path / "aligner")  # replaces the first
    loaded = Aligner.from_pretrained(tmp_path / "aligner")
    assert torch.equal(loaded.embed("text", TEXTS), aligner.embed("text", TEXTS))
    assert not loaded.training
    assert [p.name for p in tmp_path.iterdir()] == ["aligner"]


def test_aligner_file_holds_the_model_alone(aligner, tmp_path):
    aligner.save_pretrained(tmp_path)
    metadata = json.loads((tmp_path / "aligner.json").read_text())
    encoding = {"precision", "token_window", "encoder_digests", "sha256"}
    assert metadata.keys() == {"modalities", "dims", "widths"} | encoding
    pooler = {"pooler", "window", "num_latents", "num_layers", "num_heads", "head"}
    encoder = {"encoder", "revision", "weights", "layer", "merge_layers", "tokens", "pooled"}
    keys = {"adapter", "width", "dropout"} | encoder | pooler
    assert [m.keys() for m in metadata["modalities"].values()] == [keys] * 2
    assert metadata["dims"] == [16, 8]


def test_aligner_loads_after_other_config_keys_were_renamed(aligner, tmp_path, rename_keys):
    aligner.save_pretrained(tmp_path)
    rename_keys()
    with pytest.raises(ConfigError, match=r"train\.lr: unknown key"):
        load_config("params/tiny/align.yaml")
    loaded = Aligner.from_pretrained(tmp_path)
    assert torch.equal(loaded.embed("text", TEXTS), aligner.embed("text", TEXTS))


def test_aligner_paths_are_relative_to_the_working_directory(aligner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    aligner.save_pretrained("models/aligner")
    assert (tmp_path / "models/aligner/aligner.json").is_file()
    loaded = Aligner.from_pretrained("models/aligner")
    assert torch.equal(loaded.embed("text", TEXTS), aligner.embed("text", TEXTS))


# --- weights of the encoders -------------------------------------------------------------------


@pytest.fixture
def moved(aligner, tiny_vision, tmp_path):
    """A saved aligner whose vision encoder is a folder that a test may change."""
    shutil.copytree(tiny_vision, tmp_path / "encoder")
    vision = aligner.modalities["vision"].model_copy(update={"encoder": str(tmp_path / "encoder")})
    aligner.modalities = aligner.modalities | {"vision": vision}
    aligner.save_pretrained(tmp_path / "aligner")
    return tmp_path


def change_weights(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: value * 1.5 for name, value in weights.items()}, path, {"format": "pt"})


def test_aligner_refuses_encoder_weights_that_changed(moved):
    change_weights(moved / "encoder")
    loaded = Aligner.from_pretrained(moved / "aligner")
    with pytest.raises(ConfigError, match=r"encoder: its weights .* not those that the model was"):
        loaded.embed("vision", image())
    assert loaded.embed("text", TEXTS).shape == (2, 16), "the other encoder is as it was"


def test_aligner_refuses_features_of_encoder_weights_that_changed(moved, config):
    change_weights(moved / "encoder")
    aligner, options = Aligner.untrained(moved / "aligner"), (config.features, moved)
    with pytest.raises(ConfigError, match="not those that the model was trained on"):
        aligner.feature_spec(*options)
    assert aligner.feature_spec(*options, ["text"]).modalities == {"text": config.text}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_for_an_aligner_have_its_precision(config, aligner, tmp_path, precision):
    aligner.precision = precision
    features = config.features.model_copy(update={"precision": "fp16"})
    spec = aligner.feature_spec(features, tmp_path)
    assert spec.features.precision == precision
    onnx = features.model_copy(update={"backend": "onnx"})
    assert aligner.feature_spec(onnx, tmp_path).features.precision == "fp32"
    write_features(config.data, spec, ["val"])
    table = load_table(config.data, "val")
    for modality, items in (("vision", table.images(range(6))), ("text", table.captions[:6])):
        stored = open_stores(spec, table)[modality].gather(range(6)).pooled
        encoded = aligner.encode(modality, items).pooled
        torch.testing.assert_close(
            stored, encoded, atol=1e-2 if precision == "bf16" else 1e-5, rtol=0
        )


def test_aligner_takes_copied_and_touched_encoder_weights(moved, aligner):
    expected = aligner.embed("vision", image())
    (moved / "encoder").rename(moved / "elsewhere")
    os.utime(moved / "elsewhere/model.safetensors", (1, 1))
    path = moved / "aligner/aligner.json"
    path.write_text(path.read_text().replace(str(moved / "encoder"), str(moved / "elsewhere")))
    loaded = Aligner.from_pretrained(moved / "aligner")
    torch.testing.assert_close(loaded.embed("vision", image()), expected)


def test_aligner_saved_again_keeps_the_digests_it_was_trained_with(moved):
    change_weights(moved / "encoder")
    Aligner.from_pretrained(moved / "aligner").save_pretrained(moved / "again")
    with pytest.raises(ConfigError, match="not those that the model was trained on"):
        Aligner.from_pretrained(moved / "again").embed("vision", image())


def test_aligner_saved_without_digests_still_loads(moved):
    path = moved / "aligner/aligner.json"
    metadata = json.loads(path.read_text())
    del metadata["encoder_digests"]
    path.write_text(json.dumps(metadata))
    change_weights(moved / "encoder")
    assert Aligner.from_pretrained(moved / "aligner").embed("vision", image()).shape == (1, 16)


# --- embeddings ------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_aligner_embeds_raw_items_like_stored_features(config, aligner, modality):
    table = load_table(config.data, "val")
    stores = open_stores(config.feature_spec, table)
    embeddings, rows = embed_table(aligner, table, stores, batch_size=5)
    items = table.images(range(6)) if modality == "vision" else table.captions[:6]
    np.testing.assert_array_equal(rows[modality], np.arange(len(table)))
    torch.testing.assert_close(
        aligner.embed(modality, items), embeddings[modality][:6], atol=1e-5, rtol=1e-4
    )


def image(value=0):
    return Image.new("RGB", (20, 30), (value, 10, 200))


def clip(seed=0):
    return np.random.default_rng(seed).normal(size=8000).astype(np.float32)


@pytest.mark.parametrize(
    ("modality", "one", "other"),
    [
        pytest.param("vision", image(0), image(90), id="images"),
        pytest.param("audio", clip(0), clip(1), id="clips"),
        pytest.param("text", *TEXTS, id="captions"),
    ],
)
def test_embed_takes_one_item_or_any_number(modality, one, other, three_modalities):
    both = three_modalities.embed(modality, [one, other])
    assert both.shape == (2, 16)
    assert not torch.equal(both[0], both[1])
    torch.testing.assert_close(three_modalities.embed(modality, one), both[:1])
    torch.testing.assert_close(three_modalities.embed(modality, (x for x in (one, other))), both)
    assert three_modalities.embed(modality, []).shape == (0, 16)


@pytest.mark.parametrize(
    ("modality", "items", "error", "message"),
    [
        ("vision", "a/b.png", TypeError, r"0 of vision: expected Image, got str; to decode it: "),
        (
            "vision",
            "a/b.png",
            TypeError,
            r"\.decode_image\(Path\('a/b.png'\)\.read_bytes\(\)\)$",
        ),
        ("vision", [image(), Path("a.png")], TypeError, r"item 1 .*: .*\(Path\('a.png'\)\.read_b"),
        ("vision", b"PNG", TypeError, r"got bytes; to decode it: .*\.decode_image\(content\)$"),
        ("vision", "https://a.org/b.png", TypeError, "expected Image, got str$"),
        ("vision", [io.BytesIO()], TypeError, "expected Image, got BytesIO$"),
        (image(), "vision", ValueError, "^the modality comes first, then items; got Image$"),
        ([image()], "vision", ValueError, "^the modality comes first, then items; got list$"),
        ("text", "", ValueError, "^item 0 of text is empty$"),
        ("text", ["a three", " \n"], ValueError, "^item 1 of text is empty$"),
        ("vision", None, TypeError, "item 0 of vision: expected Image, got NoneType$"),
        ("vision", np.zeros((8, 6, 3), np.uint8), TypeError, r"got ndarray; .*Image.fromarray\("),
        (
            "vision",
            [image(), Image.new("1", (500, 2))],
            ValueError,
            "item 1 of vision: 500 x 2",
        ),
        (
            "audio",
            np.array([0, np.nan]),
            ValueError,
            "item 0 of audio: samples that are not",
        ),
        ("audio", [np.zeros(0)], ValueError, "item 0 of audio: no samples"),
        ("audio", "three.wav", TypeError, r"0 of audio: expected ndarray, got str; .*decode_audio"),
        ("audio", Path("three.wav"), TypeError, "item 0 of audio: .* got PosixPath.*decode_audio"),
        ("audio", torch.zeros(16000), TypeError, "item 0 of audio: expected ndarray, got Tensor"),
        ("audio", np.zeros((2, 16000)), TypeError, r"got float64 of shape \(2, 16000\)"),
        ("audio", np.zeros(16000, np.int16), TypeError, "expected floats .* got int16"),
        ("text", Path("three.txt"), TypeError, "item 0 of text: expected str, got PosixPath$"),
        ("text", [image()], TypeError, "item 0 of text: expected str, got Image$"),
        ("depth", [image()], ValueError, "no modality 'depth', only vision, audio, text"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_embed_rejects_other_items(modality, items, error, message, three_modalities):
    with pytest.raises(error, match=message):
        three_modalities.embed(modality, items)


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "CMYK", "L", "P"])
def test_embed_takes_images_of_any_mode_like_a_table(mode, three_modalities):
    ramp = Image.fromarray(np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16))
    picture = ramp if mode == "I;16" else normalize_image(ramp).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF")
    expected = three_modalities.embed("vision", decode_image(buffer.getvalue()))
    torch.testing.assert_close(three_modalities.embed("vision", picture), expected)


def test_embed_turns_images_as_their_exif_data_say(three_modalities):
    picture = Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30))
    picture.getexif()[274] = 6
    turned = three_modalities.embed("vision", picture.rotate(-90, expand=True))
    torch.testing.assert_close(three_modalities.embed("vision", picture), turned)


def test_embed_takes_doubles_and_single_samples(three_modalities):
    doubles = three_modalities.embed("audio", clip().astype(float))
    torch.testing.assert_close(doubles, three_modalities.embed("audio", clip()))
    assert three_modalities.embed("audio", np.zeros(1)).isfinite().all()


def test_encode_rejects_an_empty_list(three_modalities):
    with pytest.raises(ValueError, match="no items of vision"):
        three_modalities.encode("vision", [])


# --- training --------------------------------------------------------------------------------


def test_loss_is_the_sum_over_dims(config, aligner):
    batch = batches(config)[0]
    task = AlignmentTask(aligner, config.loss, config.pairs, config.seed)
    vision, text = (aligner.heads[name](batch.features[name])[1] for name in ("vision", "text"))
    kept, scale = batch.present["text"], task.loss.logit_scale()
    assert 0 < kept.sum() <= len(kept)
    expected = sum(info_nce(vision[kept, :d], text[kept, :d], scale) for d in config.loss.dims)
    torch.testing.assert_close(task(batch), expected)


def test_training_changes_every_head_and_no_encoder(config, aligner):
    task = AlignmentTask(aligner, config.loss, config.pairs, config.seed).train()
    task(batches(config)[0]).backward()
    unused = [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused
    aligner.embed("vision", load_table(config.data, "val").images([0]))
    assert not any("encoder" in name for name, _ in aligner.named_parameters())
    assert not any(p.requires_grad for e in aligner._encoders.values() for p in e.parameters())


def test_online_batches_equal_those_of_the_store(config):
    online = config.model_copy(deep=True)
    online.features.online = True
    stored, encoded = batches(config)[3], batches(online)[3]
    assert (stored.rows == encoded.rows).all()
    for name in config.modalities:
        assert torch.equal(stored.present[name], encoded.present[name])
        torch.testing.assert_close(
            stored.features[name].pooled, encoded.features[name].pooled, atol=1e-4, rtol=1e-3
        )


def test_augmented_batches_differ_each_time(config):
    online = config.model_copy(deep=True)
    online.features.online = online.vision.augment = True
    augmented = batches(online)
    first, second = augmented[0].features["vision"].pooled, augmented[0].features["vision"].pooled
    assert not torch.allclose(first, second, atol=1e-3)
