"""Items that cannot be used: each is one counted skip, and all others are encoded."""

import csv

import pytest
import torch
from audio_helpers import encode, sine
from image_helpers import to_file
from PIL import Image
from safetensors import SafetensorError
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

from edge_lib.config import ConfigError, DataConfig, FeaturesConfig, FeatureSpec, ModalityConfig
from edge_lib.features.encoder import load_encoder
from edge_lib.features.extract import write_features
from edge_lib.features.items import Items
from edge_lib.features.online import OnlineFeatures
from edge_lib.features.store import open_store
from edge_lib.features.store_writer import StoreWriter
from edge_lib.features.vision import VisionEncoder

BAD = (13, 10)  # the size of the one image that an encoder fails on


@pytest.fixture
def table(make_table, encode_image):
    """Eight images, of which r2 has another size than the others."""
    sizes = [BAD if i == 2 else (12, 10) for i in range(8)]
    return make_table(
        [{"id": f"r{i}", "image": encode_image(i, size=size)} for i, size in enumerate(sizes)]
    )


@pytest.fixture
def store(tiny_vision, tmp_path):
    """store(table, modality="vision", key=value, ...) -> its store, and the writer's counts."""

    def write(table, modality="vision", encoder=tiny_vision, cache=tmp_path, pooler="mean", **keys):
        config = ModalityConfig(encoder=str(encoder), pooler=pooler)
        features = FeaturesConfig(**{"batch_size": 3, "shard_rows": 6, **keys})
        writer = StoreWriter(FeatureSpec({modality: config}, features, cache), modality, table)
        writer.write(lambda: load_encoder(modality, config.encoder_config))
        writer.finish()
        return open_store(writer.spec, modality, table), writer.counts()

    return write


def skipped_rows(store):
    with (store.folder / "skipped.csv").open() as file:
        return [*csv.reader(file)][1:]


@pytest.fixture
def fail_on_bad(monkeypatch):
    """fail_on_bad() makes the vision encoder fail to prepare batches with an image of BAD size."""

    def patch():
        prepare = VisionEncoder.prepare

        def fail(self, images):
            if BAD in [image.size for image in images]:
                raise ZeroDivisionError("no such size")
            return prepare(self, images)

        monkeypatch.setattr(VisionEncoder, "prepare", fail)

    return patch


@pytest.mark.parametrize("num_workers", [0, 1])
def test_item_that_cannot_be_prepared_is_one_skip(table, store, fail_on_bad, capsys, num_workers):
    expected = store(table)[0].gather([0, 1, 3, 7])
    fail_on_bad()
    rest, counts = store(table, num_workers=num_workers, shard_rows=8)
    assert counts == {"items": 8, "skipped": 1, "truncated": 0}
    assert rest.valid.tolist() == [True, True, False, *[True] * 5]
    assert torch.equal(rest.gather([0, 1, 3, 7]).tokens, expected.tokens)
    assert not rest.gather([2]).mask.any()
    reason = "cannot be prepared for the encoder"
    assert skipped_rows(rest) == [["r2", reason, "no such size"]]
    assert table.skipped == {reason: ["r2"]}
    assert f"small vision: {reason}: 1 skipped (r2): no such size\n" in capsys.readouterr().out


def test_processor_that_fails_on_batches_alone_is_an_error(table, store, monkeypatch):
    def fail(self, images):
        if len(images) > 1:
            raise RuntimeError("batches are not supported")

    monkeypatch.setattr(VisionEncoder, "prepare", fail)
    with pytest.raises(RuntimeError, match="batches are not supported"):
        store(table)


@pytest.mark.parametrize("threads", [1, 3])
def test_online_item_that_cannot_be_prepared_is_one_skip(
    table, tiny_vision, fail_on_bad, monkeypatch, threads
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    encoder = load_encoder("vision", ModalityConfig(encoder=str(tiny_vision)).encoder_config)
    expected = OnlineFeatures(Items(table, "vision"), encoder).gather([1, 3])
    fail_on_bad()
    features = OnlineFeatures(Items(table, "vision"), encoder)
    output = features.gather([1, 2, 3])
    assert features.valid.nonzero()[0].tolist() == [0, 1, 3, 4, 5, 6, 7]
    torch.testing.assert_close(output.pooled[[0, 2]], expected.pooled)
    assert table.skipped == {"cannot be prepared for the encoder": ["r2"]}


def scale_output(monkeypatch, factor, rows):
    """Multiply the output of some items, by their place in the table of one batch."""
    forward = VisionEncoder.forward

    def scaled(self, pixel_values):
        output = forward(self, pixel_values=pixel_values)
        output.tokens[rows] *= factor
        return output

    monkeypatch.setattr(VisionEncoder, "forward", scaled)


@pytest.mark.parametrize(
    ("factor", "dtype", "reason"),
    [
        (float("inf"), "float32", "the encoder's output is not finite"),
        (float("nan"), "float16", "the encoder's output is not finite"),
        (1e6, "float16", "features are too large for float16; use features.dtype=float32"),
    ],
    ids=["inf", "nan", "large"],
)
def test_output_that_cannot_be_stored_is_one_skip(
    table, store, monkeypatch, tmp_path, factor, dtype, reason
):
    whole = {"batch_size": 8, "shard_rows": 8, "dtype": dtype}
    expected = store(table, cache=tmp_path / "all", **whole)[0].gather([4, 6]).tokens
    scale_output(monkeypatch, factor, [5])
    rest, counts = store(table, **whole)
    assert counts["skipped"] == 1
    assert skipped_rows(rest) == [["r5", reason, ""]]
    assert torch.equal(rest.gather([4, 6]).tokens, expected)
    assert rest.gather(range(8)).tokens.isfinite().all()


def test_large_output_is_stored_as_float32(table, store, monkeypatch):
    scale_output(monkeypatch, 1e6, [5])
    stored, counts = store(table, batch_size=8, shard_rows=8, dtype="float32")
    assert counts["skipped"] == 0
    assert stored.gather([5]).tokens.abs().max() > 65504


def test_store_without_any_item_names_the_reasons(table, store, monkeypatch):
    scale_output(monkeypatch, 1e6, slice(None))
    with pytest.raises(ConfigError, match=r"no item could be encoded: features are"):
        store(table)


def test_table_without_captions_is_an_error_before_encoding(encode_image, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(encode_image())
    folder, cache = {"path": tmp_path / "pictures", "caption_column": None}, tmp_path / "cache"
    data = DataConfig(source="folder", folder=folder, cache_dir=cache)
    modalities = {"text": ModalityConfig(encoder="all-MiniLM-L6-v2")}
    spec = FeatureSpec(modalities, FeaturesConfig(), cache)
    with pytest.raises(ConfigError, match=r"train text: nothing to encode, the table has no texts"):
        write_features(data, spec, ["train"])


def test_pictures_out_of_bounds_are_skips_and_the_transparent_ones_counted(
    make_table, encode_image, store, capsys
):
    strip = to_file(Image.new("RGB", (20000, 2)), "PNG")
    clear = to_file(Image.new("RGBA", (9, 9)), "PNG")
    images = [encode_image(0), strip, to_file(Image.new("L", (1, 1)), "PNG"), b"GIF89a", clear]
    table = make_table([{"id": f"r{i}", "image": image} for i, image in enumerate(images)])
    stored, counts = store(table)
    assert counts == {"items": 5, "skipped": 2, "truncated": 0}
    rows = skipped_rows(stored)
    assert [row[:2] for row in rows] == [[id, "image does not decode"] for id in ("r1", "r3")]
    assert rows[0][2] == "20000 x 2 pixels: a ratio over 100:1"
    printed = capsys.readouterr().out
    assert "small vision: image does not decode: 2 skipped (r1, r3): 20000 x 2 pixels" in printed
    assert "small vision: 1 partly transparent images, put over white\n" in printed


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 3), (40, 1), (3, 40)], ids=str)
def test_encoders_read_the_sides_of_small_pictures_right(tiny_vision, size):
    """Sides of 1 and 3 are not taken for channels."""
    encoder = load_encoder("vision", ModalityConfig(encoder=str(tiny_vision)).encoder_config)
    picture = Image.new("RGB", size, (200, 100, 50))
    large = Image.new("RGB", (40, 40), (200, 100, 50))
    pixels = [encoder.prepare([image])["pixel_values"] for image in (picture, large)]
    torch.testing.assert_close(*pixels)


@pytest.fixture(scope="module")
def tiny_ast(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ast")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ASTModel(ASTConfig(**shape, intermediate_size=24, max_length=100)).save_pretrained(folder)
    ASTFeatureExtractor(max_length=100).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["ast", "whisper"])
def test_clips_of_any_length_are_encoded(make_table, store, tiny_ast, tiny_audio, kind):
    lengths = [1, 100, 399, 400, 16000, 80000]
    clips = [encode(sine(5, 16000)[:length], 16000) for length in lengths]
    table = make_table([{"id": f"r{i}", "audio": clip} for i, clip in enumerate(clips)])
    encoder = tiny_ast if kind == "ast" else tiny_audio
    stored, counts = store(table, "audio", encoder)
    assert counts == {"items": 6, "skipped": 0, "truncated": 1}
    assert stored.gather(range(6)).pooled.isfinite().all()
    assert stored.gather(range(6)).mask.any(1).all()


def test_captions_over_the_window_are_counted(make_table, store, capsys):
    """MiniLM reads 256 tokens, two of which are special; most of these words are one token."""
    captions = ["red " * count for count in (10, 254, 255, 300)]
    captions.append("antidisestablishmentarianism " * 60)
    table = make_table([{"id": f"r{i}", "texts": [text]} for i, text in enumerate(captions)])
    stored, counts = store(table, "text", "all-MiniLM-L6-v2", pooler="pooled")
    assert counts == {"items": 5, "skipped": 0, "truncated": 3}
    assert stored.truncated.tolist() == [False, False, True, True, True]
    line = "small text: 3 truncated: longer than the encoder's window\n"
    assert line in capsys.readouterr().out


def test_short_captions_are_not_tokenised_twice(monkeypatch):
    encoder = load_encoder("text", ModalityConfig(encoder="all-MiniLM-L6-v2").encoder_config)
    monkeypatch.setattr(type(encoder.model), "tokenizer", None)
    assert not encoder.truncates("é" * 127)


@pytest.mark.parametrize("name", ["cache [v2]", "cache::a", "cache *", "ca?he", "{cache}"])
def test_store_paths_are_taken_literally(table, store, tmp_path, name):
    stored, counts = store(table, cache=tmp_path / name)
    assert counts == {"items": 8, "skipped": 0, "truncated": 0}
    assert stored.folder.parent.parent == tmp_path / name


def test_full_disk_is_one_clear_error_and_leaves_no_part_of_a_shard(
    table, store, monkeypatch, tmp_path
):
    """As safetensors says it; the shards before are kept, for a start with more space."""

    def save(data, path):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr("edge_lib.features.shards.save_tensors", save)
    message = r"features/vision-\w+/shard-00000: No space left on device; make room"
    with pytest.raises(ConfigError, match=message):
        store(table)
    left = [path.name for path in tmp_path.glob("features/*/*")]
    assert left == [".claim-00000.0"]  # void: the next start takes the shard over


def test_skips_of_a_table_are_one_line_a_reason(make_table, encode_image, store, capsys, caplog):
    images = [encode_image(0), *[b"text"] * 12, None, *[encode_image(0)[:50]] * 9, None]
    table = make_table([{"id": f"r{i}", "image": image} for i, image in enumerate(images)])
    _, counts = store(table, shard_rows=5)
    lines = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert [line.partition(": not an image")[0] for line in lines] == [
        "small vision: image does not decode: 21 skipped (r1, r2, r3, ...)",
        "small vision: no image: 2 skipped (r13, r23)",
    ]
    assert counts["skipped"] == 23
    assert not caplog.records
