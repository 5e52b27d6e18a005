"""COCO's captions for each split, and Karpathy's files with all splits."""

import json

import pytest

from edge_lib.config import ConfigError, DataConfig
from edge_lib.sources import load_table


@pytest.fixture
def images(tmp_path, encode_image):
    """A folder with COCO's 2014 images 0 to 9 in train2014 and val2014, also without folders."""
    root = tmp_path / "coco [v2]"
    for n in range(10):
        folder = "val2014" if n > 5 else "train2014"
        for name in (f"{folder}/COCO_{folder}_{n:012}.jpg", f"{n:012}.jpg"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(encode_image(n, "JPEG", size=(10 + n, 8)))
    return root


@pytest.fixture
def load(tmp_path):
    """load(annotations, images, split, divide) -> a table."""

    def load(annotations, images, split="train", divide=None):
        section = {"annotations": annotations, "images": images}
        config = DataConfig(source="coco", coco=section, split=divide, cache_dir=tmp_path / "cache")
        return load_table(config, split)

    return load


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def captions(numbers):
    """captions_*.json: five captions of each image, not in order."""
    images = [{"id": n, "file_name": f"{n:012}.jpg", "width": 10 + n} for n in numbers]
    annotations = [
        {"image_id": n, "id": 9 * n + c, "caption": f"{n}-{c}\n"} for c in range(5) for n in numbers
    ]
    return {"info": {}, "images": images, "annotations": annotations[::-1]}


def karpathy():
    """dataset_coco.json of ten images."""
    splits = ["train"] * 4 + ["restval"] * 2 + ["val"] * 2 + ["test"] * 2
    images = []
    for n, split in enumerate(splits):
        folder = "val2014" if n > 5 else "train2014"
        sentences = [{"raw": f"{n}-{c}", "tokens": [], "imgid": n} for c in range(5)]
        images.append(
            {
                "filepath": folder,
                "filename": f"COCO_{folder}_{n:012}.jpg",
                "split": split,
                "sentences": sentences,
                "cocoid": n,
            }
        )
    return {"images": images, "dataset": "coco"}


def widths(table):
    return [image and image.size[0] for image in table.images(range(len(table)))]


def test_coco_reads_five_captions_of_ten_images(images, load, tmp_path):
    files = {"train": write(tmp_path / "train.json", captions(range(10)))}
    files["val"] = write(tmp_path / "val.json", captions([3]))
    table = load(files, images)
    assert table.ids == list(map(str, range(10)))
    assert [sorted(texts) for texts in table.column("texts")] == [
        [f"{n}-{c}\n" for c in range(5)] for n in range(10)
    ]
    assert table.captions[-1] == "9-0"
    assert widths(table) == list(range(10, 20))
    assert load(files, {"train": "none", "val": images}, "val").ids == ["3"]
    with pytest.raises(ConfigError, match=r"data\.coco\.annotations has no split 'test', only"):
        load(files, images, "test")
    with pytest.raises(ConfigError, match=r"data\.coco\.images\.train: no such file .*none"):
        load(files, {"train": "none", "val": images})


def test_coco_trains_on_restval(images, load, tmp_path):
    file = write(tmp_path / "dataset_coco.json", karpathy())
    tables = {split: load(file, images, split) for split in ("train", "val", "test")}
    assert {split: widths(table) for split, table in tables.items()} == {
        "train": [10, 11, 12, 13, 14, 15],
        "val": [16, 17],
        "test": [18, 19],
    }
    assert tables["val"].captions == [f"{n}-{c}" for n in (6, 7) for c in range(5)]
    assert tables["val"].ids[0] == "COCO_val2014_000000000006"
    by_split = dict.fromkeys(("train", "val", "test"), file)
    assert load(by_split, images, "val").captions == tables["val"].captions


def test_coco_finds_karpathys_images_in_one_folder(images, load, tmp_path):
    content = karpathy()
    for n, image in enumerate(content["images"]):
        image["filename"] = f"{n:012}.jpg"
    file = write(tmp_path / "dataset.json", content)
    assert widths(load(file, images)) == [10, 11, 12, 13, 14, 15]
    for image in content["images"]:
        del image["filepath"], image["cocoid"]  # as in dataset_flickr8k.json
    file = write(tmp_path / "dataset_flickr8k.json", content)
    assert widths(load(file, images, "test")) == [18, 19]


def test_coco_divides_one_file(images, load, tmp_path):
    file = write(tmp_path / "captions.json", captions(range(10)))
    divide = {"val": 0.2, "test": 0.2}
    tables = [load(file, images, split, divide) for split in ("train", "val", "test")]
    assert [len(table) for table in tables] == [6, 2, 2]
    assert len({name for table in tables for name in table.ids}) == 10
    with pytest.raises(
        ConfigError, match=r"one split, but is named for train and val; .*data\.split"
    ):
        load(file, images)
    with pytest.raises(ConfigError, match=r"leave out data\.split\.val"):
        load(write(tmp_path / "dataset.json", karpathy()), images, divide=divide)


def test_coco_is_divided_by_a_field_of_its_images(images, load, tmp_path):
    content = captions(range(10))
    content["images"] = [image | {"album": n // 4} for n, image in enumerate(content["images"])]
    del content["images"][9]["album"]
    file = write(tmp_path / "captions.json", content)
    divide = {"val": 0.4, "test": 0.1, "by": "album"}
    albums = [load(file, images, s, divide).column("split_by") for s in ("train", "val", "test")]
    assert sorted(map(len, albums)) == [1, 4, 5]
    assert not set(albums[0]) & set(albums[1])
    with pytest.raises(
        ConfigError, match=r"no image has 'place'; they have file_name, width, album$"
    ):
        load(file, images, "val", divide | {"by": "place"})


def test_coco_counts_what_it_cannot_use(images, load, tmp_path):
    content = captions(range(4))
    content["annotations"] += [{"image_id": 77, "caption": "x"}, {"caption": "y"}, "odd"]
    content["annotations"] += [
        {"image_id": "0", "caption": "a text"},
        {"image_id": 1, "caption": 5},
    ]
    content["images"].append({"id": 8, "file_name": "missing.jpg"})
    content["images"] += [{"id": 9}, None, "odd", {"id": 0, "file_name": "again.jpg"}]
    table = load({"train": write(tmp_path / "a.json", content)}, images)
    assert len(table.captions) == 21
    assert widths(table) == [10, 11, 12, 13, None, None]
    assert table.skipped == {
        "not an object": ["image 6", "image 7", "annotation 22"],
        "an image with the id of another": ["again.jpg"],
        "a caption of an image that is not listed": ["77", "None"],
        "a caption that is not a text": ["1"],
        "no caption": ["8", "9"],
        "image does not decode": ["8"],
        "no image": ["9"],
    }


def test_coco_counts_what_it_cannot_use_of_karpathys_file(images, load, tmp_path):
    content = karpathy()
    content["images"][0]["sentences"] = [{"raw": "a text"}, "odd", {"raw": None}, None]
    content["images"][1]["sentences"] = "odd"
    content["images"][2]["filename"] = 5
    del content["images"][4]["filename"]
    content["images"].append("odd")
    table = load(write(tmp_path / "dataset_coco.json", content), images)
    assert len(table.captions) == 1 + 4 * 5
    assert widths(table) == [10, 11, None, 13, None, 15]
    assert table.skipped == {
        "not an object": ["image 10"],
        "a caption that is not a text": [f"COCO_train2014_{0:012}"],
        "no caption": [f"COCO_train2014_{1:012}"],
        "image does not decode": ["5"],
        "no image": ["image 4"],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no images: it is neither COCO's captions nor Karpathy's"),
        ({"images": []}, "has no images"),
        (
            {"images": [{"id": 1, "file_name": "a.jpg"}]},
            "no annotations: an image_info file has no",
        ),
        (captions([77]), r"image: no such file as 000000000077\.jpg in"),
        ({"images": [{"filename": "a", "split": "other", "sentences": []}]}, "no file has rows"),
    ],
    ids=["list", "empty", "image_info", "other folder", "other split"],
)
def test_coco_error_names_the_cause(images, load, tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        load({"train": write(tmp_path / "a.json", content)}, images)
