"""Files of near-misses as Winoground, SugarCrepe and ARO have them, and broken ones."""

import json

import pytest
from PIL import Image

from edge_lib.config import ConfigError, ContrastConfig
from edge_lib.data.unusable import UnusableItem
from edge_lib.sources.contrasts import read_contrasts

SUGARCREPE = {"filename": "a.png", "caption": "a cat", "negative_caption": "a dog"}
ARO = {"image_path": "a.png", "true_caption": "a cat on a mat", "false_caption": "a mat on a cat"}
WINOGROUND = {"image_0": "a", "image_1": "b", "caption_0": "grass in a mug"}
WINOGROUND |= {"caption_1": "a mug in grass", "tag": "Object"}


@pytest.fixture
def write(tmp_path):
    """write(content, name) -> the config of a file; content: text, or what becomes JSON."""
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (20, 10), colour).save(tmp_path / name)

    def make(content, name="set.json"):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
        return ContrastConfig(file=tmp_path / name, images=tmp_path)

    return make


def read(config):
    return read_contrasts("near", config)


def test_sugarcrepe_keeps_its_keys_as_ids(write):
    dataset = read(write({"0": SUGARCREPE, "17": SUGARCREPE | {"filename": "b.jpg"}}))
    assert [example.id for example in dataset.examples] == ["0", "17"]
    assert [example.files[0].name for example in dataset.examples] == ["a.png", "b.jpg"]
    assert dataset.examples[0].captions == ["a cat", "a dog"]
    assert not dataset.skipped


@pytest.mark.parametrize("indent", [None, 2])
def test_one_example_in_an_object_is_read(write, indent):
    dataset = read(write(json.dumps({"0": SUGARCREPE}, indent=indent)))
    assert [example.id for example in dataset.examples] == ["0"]


def test_winoground_names_pictures_without_suffix(write):
    lines = "\n".join(json.dumps({"id": n} | WINOGROUND) for n in (4, 9))
    dataset = read(write("\ufeff" + lines, "examples.jsonl"))
    assert [example.id for example in dataset.examples] == ["4", "9"]
    assert [file.name for file in dataset.examples[0].files] == ["a.png", "b.jpg"]
    assert [picture.getpixel((0, 0)) for picture in dataset.examples[0].pictures()] == [
        (255, 0, 0),
        pytest.approx((0, 0, 254), abs=2),
    ]


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ({}, (20, 10)),
        ({"bbox_x": 4, "bbox_y": 2, "bbox_w": 10, "bbox_h": 5}, (10, 5)),
        ({"bbox_x": -3, "bbox_y": 2.9, "bbox_w": 100, "bbox_h": "5"}, (20, 5)),
    ],
    ids=["none", "inside", "clipped"],
)
def test_aro_is_cut_to_its_box(write, box, size):
    (example,) = read(write([ARO | box])).examples
    assert [picture.size for picture in example.pictures()] == [size]


def test_box_outside_of_the_picture_is_unusable(write):
    box = {"bbox_x": 20, "bbox_y": 0, "bbox_w": 5, "bbox_h": 5}
    (example,) = read(write([ARO | box])).examples
    with pytest.raises(UnusableItem, match="outside"):
        example.pictures()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (SUGARCREPE | {"caption": " "}, "no text under 'caption'"),
        (SUGARCREPE | {"negative_caption": None}, "no text under 'negative_caption'"),
        (SUGARCREPE | {"caption": ["a cat"]}, "no text under 'caption'"),
        (SUGARCREPE | {"negative_caption": "a cat "}, "both captions are equal"),
        (SUGARCREPE | {"filename": "missing.png"}, "no picture file"),
        (SUGARCREPE | {"filename": "a\0.png"}, "no picture file"),
        (SUGARCREPE | {"filename": "x" * 5000}, "no picture file"),
        (SUGARCREPE | {"filename": 7}, "no text under 'filename'"),
        (SUGARCREPE | {"bbox_x": 1}, "no numbers under bbox_x, bbox_y, bbox_w, bbox_h"),
        ("a cat", "not a JSON object"),
        (None, "not a JSON object"),
        ({"caption": "a cat"}, "no text under 'filename'"),
    ],
    ids=str,
)
def test_unusable_entry_is_a_counted_skip(write, entry, reason):
    dataset = read(write([SUGARCREPE, entry]))
    assert [example.id for example in dataset.examples] == ["0"]
    assert dataset.skipped == {reason: ["1"]}


def test_cut_emoji_becomes_a_question_mark(write):
    entry = '[{"filename": "a.png", "caption": "a \\ud83d cat", "negative_caption": "a dog"}]'
    assert read(write(entry)).examples[0].captions[0] == "a ? cat"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no JSON objects; expected the keys image_0"),
        ("{", "is not JSON"),
        ([{"image": "a.png", "text": "a cat"}], "has 'image', 'text'; expected the keys"),
        ([SUGARCREPE | {"filename": "c.png"}], r"no picture file: 1 skipped \(0\)"),
    ],
    ids=["empty", "broken", "other_keys", "nothing_usable"],
)
def test_file_without_examples_is_a_config_error(write, content, message):
    config = write(content)
    with pytest.raises(ConfigError, match=message) as error:
        read(config)
    assert str(config.file) in str(error.value)


@pytest.mark.parametrize("key", ["file", "images"])
def test_missing_path_is_a_config_error(write, key, tmp_path):
    config = write([SUGARCREPE]).model_copy(update={key: tmp_path / "none"})
    with pytest.raises(ConfigError, match=rf"evaluate\.contrasts\.near\.{key}: no .*none"):
        read(config)
