"""Data sets in folders: saved to disk, or read by load_dataset; and names that lead nowhere."""

import datasets
import huggingface_hub
import pytest
from audio_helpers import encode, sine
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from edge_lib.config import ConfigError, DataConfig
from edge_lib.sources import load_table


@pytest.fixture
def rows(encode_image):
    """rows(numbers) -> a data set; picture n is 10 + n pixels wide."""
    features = Features(
        {
            "image": Image(),
            "caption": Value("string"),
            "others": List(Value("string")),
            "label": ClassLabel(names=["big_cat", "dog"]),
            "key": Value("int32"),
        }
    )

    def rows(numbers):
        columns = {
            "image": [{"bytes": encode_image(n, size=(10 + n, 8)), "path": None} for n in numbers],
            "caption": [f"caption {n}" for n in numbers],
            "others": [[f"a{n}", f"b{n}"] for n in numbers],
            "label": [n % 2 for n in numbers],
            "key": [100 + n for n in numbers],
        }
        return Dataset.from_dict(columns, features)

    return rows


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "hub [v2] a::b*"
    path.mkdir()
    return path


@pytest.fixture
def save(folder, tmp_path):
    """save(data set, name, ...) -> what save_to_disk writes; it cannot write to the folder."""

    def save(dataset, name, **options):
        dataset.save_to_disk(tmp_path / "plain", **options)
        (folder / name).parent.mkdir(exist_ok=True)
        return (tmp_path / "plain").rename(folder / name)

    return save


@pytest.fixture
def load(folder):
    """load(name, split, divide, key=value) -> a table; the cache is in the folder."""

    def load(name, split="train", divide=None, **keys):
        section = {"name": str(name), **keys}
        config = DataConfig(source="hub", hub=section, split=divide, cache_dir=folder / "cache")
        return load_table(config, split)

    return load


def check_ten_rows(table):
    assert table.captions == [f"caption {n}" for n in range(10)]
    assert [image.size for image in table.images(range(10))] == [(10 + n, 8) for n in range(10)]
    assert isinstance(table.dataset[3]["image"]["bytes"], bytes)


def test_hub_reads_ten_rows_saved_to_disk(rows, folder, load, save):
    splits = DatasetDict(train=rows(range(10)), validation=rows([10, 11]), other=rows([12]))
    save(splits["train"], "one", num_shards=3)
    save(splits, "splits")
    check_ten_rows(load(folder / "splits"))
    assert load(folder / "splits", "val").captions == ["caption 10", "caption 11"]
    assert load(folder / "splits", "test", test="other").captions == ["caption 12"]
    with pytest.raises(ConfigError, match=r"no split 'test', only train, validation, other"):
        load(folder / "splits", "test")
    with pytest.raises(ConfigError, match=r"saved without splits; set data\.split"):
        load(folder / "one", "val")
    divided = [load(folder / "one", s, {"val": 0.2, "test": 0.1}) for s in ("train", "val", "test")]
    assert [len(table) for table in divided] == [7, 2, 1]
    check_ten_rows(load(folder / "one"))


def test_hub_reads_ten_rows_of_a_folder(rows, folder, load, tmp_path):
    (tmp_path / "plain").mkdir()
    rows(range(10)).to_parquet(tmp_path / "plain/train-0.parquet")
    rows([10]).to_parquet(tmp_path / "plain/test-0.parquet")
    (tmp_path / "plain").rename(folder / "data")
    check_ten_rows(load(folder / "data"))
    assert load(folder / "data", "test").captions == ["caption 10"]
    part = load(folder / "data", train="train[:30%]")
    assert part.captions == [f"caption {n}" for n in range(3)]
    assert part.fingerprint != load(folder / "data", train="train[30%:60%]").fingerprint
    with pytest.raises(ConfigError, match=r"Unknown split \"validation\""):
        load(folder / "data", "val")
    with pytest.raises(ConfigError, match=r"'none' not found\. Available: \['default'\]"):
        load(folder / "data", config="none")


def test_hub_selects_columns(rows, folder, load, save):
    save(rows(range(3)), "one")
    table = load(folder / "one", caption_column=["others", "caption"], id_column="key")
    assert table.column("texts")[1] == ["a1", "b1", "caption 1"]
    assert table.ids == ["100", "101", "102"]
    assert load(folder / "one", caption_column="label").captions == ["big cat", "dog", "big cat"]
    with pytest.raises(ConfigError, match=r"no column 'captions' \(did you mean 'caption'\?\)"):
        load(folder / "one", caption_column="captions")
    with pytest.raises(ConfigError, match=r"column 'key' is int32; texts takes"):
        load(folder / "one", caption_column="key")
    next((folder / "one").glob("*.arrow")).unlink()
    with pytest.raises(ConfigError, match=r"data\.hub: .*one: .*No such file or directory"):
        load(folder / "one")


def test_hub_keeps_sound_encoded(folder, load, save):
    cells = [{"bytes": encode(sine(0.5, 16000), 16000, "FLAC"), "path": "a.flac"}, None]
    columns = {"audio": cells, "sentence": ["x", "y"]}
    features = Features({"audio": Audio(), "sentence": Value("string")})
    dataset = Dataset.from_dict({"sentence": columns["sentence"]})
    dataset = dataset.add_column("audio", cells, feature=Audio(decode=False)).cast(
        Features({"sentence": Value("string"), "audio": Audio()})
    )
    assert dataset.features == features
    save(dataset, "one")
    keys = {"image_column": None, "audio_column": "audio", "caption_column": "sentence"}
    table = load(folder / "one", **keys)
    assert [clip is None for clip in table.clips([0, 1])] == [False, True]
    assert len(table.clips([0])[0]) == 8000


def test_hub_fingerprint_follows_the_content(rows, folder, load, tmp_path, save):
    save(rows(range(3)), "one")
    before = load(folder / "one").fingerprint
    assert load((folder / "one").rename(tmp_path / "copy")).fingerprint == before
    assert load(tmp_path / "copy", caption_column="others").fingerprint != before
    save(rows(range(1, 4)), "one")
    assert load(folder / "one").fingerprint != before


@pytest.mark.parametrize("name", ["no/such-data-set", "no such name", "/none/there"])
def test_hub_error_is_one_line(load, monkeypatch, name):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=rf"^data\.hub: {name}: \w+") as caught:
        load(name)
    assert len(str(caught.value).splitlines()) == 1


def test_hub_is_asked_once_for_what_is_not_cached(load, monkeypatch, tmp_path, folder):
    """`load_dataset` retries for minutes; what it has in its cache opens without a network."""
    asked = []

    def refuse(_, name, timeout):
        asked.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr("edge_lib.sources.hub.load_dataset", None)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(ConfigError, match=r"^data\.hub: Some/DataSet: no network$"):
        load("Some/DataSet")
    assert asked == ["Some/DataSet"]
    (folder / "cache/hub/Some___data_set").mkdir(parents=True)
    with pytest.raises(ConfigError, match="NoneType"):
        load("Some/DataSet")
    assert asked == ["Some/DataSet"]


def test_hub_without_a_split_asks_for_one(load, folder):
    with pytest.raises(ConfigError, match=r"data\.hub\.val is null; .* data\.split\.val"):
        load(folder, "val", val=None)


def test_hub_joins_the_rows_of_a_picture(rows, folder, load, save, monkeypatch):
    save(rows([0, 1, 0, 2, 1, 0]), "one")
    for _ in range(2):
        table = load(folder / "one", id_column="key")
        assert list(table.ids) == ["100", "101", "102"]
        assert table.column("texts") == [["caption 0"] * 3, ["caption 1"] * 2, ["caption 2"]]
        assert [image.size[0] for image in table.images(range(3))] == [10, 11, 12]
        monkeypatch.setattr("edge_lib.sources.join.cell_digests", None)  # kept under the cache
    assert len(load(folder / "one", caption_column=None)) == 6, "nothing to join"
