"""Data sets of zip archives: COCO, VQAv2, GQA, LLaVA, whole and in part, from fake publishers."""

import io
import json
import multiprocessing
import signal
import zipfile
from collections import namedtuple
from functools import cache

import publishers
import pytest
from file_server import answer, cut_after, serve_files, status, zip_of
from hub_server import use_hub

from edge_lib import download, load_config, load_table
from edge_lib.config import ROOT, ConfigError, DataConfig
from edge_lib.sources.download import disk, transfer
from edge_lib.sources.download.published import PUBLISHED

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def server(encode_image, monkeypatch):
    picture = cache(lambda seed: encode_image(seed, "JPEG", size=(8, 8)))
    monkeypatch.setattr(transfer, "sleep", lambda _: None)
    with serve_files() as server:
        publishers.add_coco(server, picture)
        publishers.add_vqav2(server)
        publishers.add_gqa(server, picture)
        publishers.add_llava(server, picture)
        sums = publishers.published_sums(server)
        assert sums.keys() == PUBLISHED.keys()
        for url, values in sums.items():
            monkeypatch.setitem(PUBLISHED, url, values)
        use_hub(monkeypatch, server)
        yield server


@pytest.fixture
def fetch(server, tmp_path):
    def fetch(name, out="data", **options):
        return download(name, tmp_path / out, mirror=server.url, **options)

    return fetch


@pytest.fixture
def full_config(monkeypatch, tmp_path):
    """full_config(name) -> params/full/NAME.yaml, with its data in tmp_path/data."""

    def load(name):
        monkeypatch.setattr("edge_lib.config.base.ROOT", tmp_path)
        return load_config(ROOT / f"params/full/{name}.yaml", "data.cache_dir=cache")

    return load


def files_below(folder):
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if not str(path).startswith(("archives", ".download.json"))}


def assert_pictures(table):
    assert all(image is not None for image in table.images(range(len(table))))


def coco_config(folder, **options):
    coco = {"annotations": folder / "data/dataset_coco.json", "images": folder / "data"}
    return DataConfig(source="coco", coco=coco | options, cache_dir=folder / "cache")


def test_coco_karpathy_is_read_by_its_source(fetch, tmp_path):
    summary = fetch("coco-captions")
    assert summary["rows"] == {"train": 42, "val": 4, "test": 4}
    assert summary["skipped"] == {}
    for split, rows in summary["rows"].items():
        table = load_table(coco_config(tmp_path), split)
        assert len(table) == rows
        assert_pictures(table)
        assert {len(texts) for texts in table.column("texts")} == {5}


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_has_its_own_splits(fetch, tmp_path, year):
    summary = fetch("coco-captions", splits=year)
    assert summary["rows"] == {"train": 40, "val": 10}
    files = {split: tmp_path / "data" / name for split, name in summary["files"].items()}
    images = {split: tmp_path / f"data/{split}{year}" for split in files}
    config = coco_config(tmp_path, annotations=files, images=images)
    for split in files:
        assert_pictures(load_table(config, split))


def test_coco_rows_are_single_pictures(server, fetch, tmp_path):
    summary = fetch("coco-captions", rows=3)
    assert summary["rows"] == {"train": 3, "val": 3, "test": 3}
    for split in summary["rows"]:
        table = load_table(coco_config(tmp_path), split)
        assert len(table) == 3
        assert_pictures(table)
    assert len(files_below(tmp_path / "data")) == 9 + len(["json", "download.json", ".lock"])
    assert None not in server.ranges_of(f"{publishers.COCO}/zips/train2014.zip")[1:]


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_rows_of_its_own_splits_keep_their_captions(fetch, tmp_path, year):
    fetch("coco-captions", splits=year, rows=4)
    content = json.loads((tmp_path / f"data/captions_val{year}.json").read_text())
    assert len(content["images"]) == 4
    assert len(content["annotations"]) == 20
    names = {f"val{year}/{image['file_name']}" for image in content["images"]}
    assert names == {name for name in files_below(tmp_path / "data") if name.startswith("val")}


def test_rows_depend_on_the_seed_alone(fetch, tmp_path):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        fetch("coco-captions", out, rows=3, seed=seed)
    a, b, c = (files_below(tmp_path / name) for name in "abc")
    assert a == b != c


def test_more_rows_than_there_are_give_all(fetch):
    assert fetch("coco-captions", rows=1000)["rows"] == {"train": 42, "val": 4, "test": 4}


def test_vqav2_is_what_params_full_names(fetch, tmp_path, full_config):
    summary = fetch("vqav2", "data/vqav2")
    assert summary["rows"] == {"train": 80, "val": 20}
    config = full_config("trm_qa").data
    tables = {split: load_table(config, f"qa-{split}") for split in ("train", "val", "test")}
    assert len(tables["test"]) == 20
    assert len(tables["train"]) + len(tables["val"]) == 80
    assert not set(tables["train"].column("image_id")) & set(tables["val"].column("image_id"))
    for table in tables.values():
        assert_pictures(table)
        assert table.column("answers")[0] == ["a"]


def test_vqav2_rows_are_all_questions_on_some_pictures(fetch, tmp_path):
    assert fetch("vqav2", rows=2)["rows"] == {"train": 4, "val": 4}
    annotations = tmp_path / "data/v2_mscoco_train2014_annotations.json"
    assert len(json.loads(annotations.read_text())["annotations"]) == 4
    assert len([name for name in files_below(tmp_path / "data") if name.endswith("jpg")]) == 4


def test_vqav2_takes_pictures_that_are_there(server, fetch, tmp_path):
    fetch("coco-captions", "data/coco")
    before = len(server.ranges_of(f"{publishers.COCO}/zips/train2014.zip"))
    fetch("vqav2", "data/vqav2", images=tmp_path / "data/coco")
    assert len(server.ranges_of(f"{publishers.COCO}/zips/train2014.zip")) == before
    assert not (tmp_path / "data/vqav2/train2014").exists()


def test_vqav2_names_the_download_of_missing_pictures(fetch, tmp_path):
    with pytest.raises(ConfigError, match="edge-glass download coco-captions --out"):
        fetch("vqav2", images=tmp_path / "coco")


def test_gqa_is_read_by_its_source(fetch, tmp_path):
    summary = fetch("gqa")
    assert summary["rows"] == {"train": 40, "val": 20, "test": 10}
    files = {split: tmp_path / "data" / name for split, name in summary["files"].items()}
    gqa = {"questions": files, "images": tmp_path / "data/images"}
    config = DataConfig(questions={"source": "gqa", "gqa": gqa}, cache_dir=tmp_path / "cache")
    for split, rows in summary["rows"].items():
        table = load_table(config, f"qa-{split}")
        assert len(table) == rows
        assert_pictures(table)
    assert not (tmp_path / "data/train_all_questions").exists()
    assert summary["source"][0]["checked"] is False
    assert len(summary["source"][0]["sha256"]) == 64


def test_gqa_rows_are_all_questions_on_some_pictures(fetch, tmp_path):
    assert fetch("gqa", rows=2)["rows"] == {"train": 4, "val": 4, "test": 4}
    assert len([name for name in files_below(tmp_path / "data") if name.endswith("jpg")]) == 6


def test_llava_is_what_params_full_names(fetch, tmp_path, full_config):
    summary = fetch("llava-665k", "data/llava")
    assert summary["rows"] == {"train": 35}
    assert summary["pictures"]["ocr_vqa"] == 3
    config = full_config("vision_text_qwen").data
    config.conversations.instructions = None
    config.conversations.split.val = config.conversations.split.test = 0.2
    tables = [load_table(config, f"chat-{split}") for split in ("train", "val", "test")]
    assert sum(map(len, tables)) == 35
    images = [image for table in tables for image in table.try_decode("vision", range(len(table)))]
    assert sum(hasattr(image, "size") for image in images) == 28


def test_llava_rows_leave_out_pictures_that_cannot_be_had(fetch, tmp_path):
    summary = fetch("llava-665k", rows=32)
    assert summary["rows"] == {"train": 32}
    assert summary["pictures"] == {"coco": 20, "gqa": 5, "none": 4, "textvqa": 1, "vg": 2}
    assert len([name for name in files_below(tmp_path / "data") if name.endswith("jpg")]) == 28


def test_archives_are_removed_or_kept(fetch, tmp_path):
    fetch("gqa", "removed")
    fetch("gqa", "kept", keep_archives=True)
    assert not [*(tmp_path / "removed").rglob("*.zip")]
    assert len([*(tmp_path / "kept").rglob("*.zip")]) == 2


def test_nothing_is_fetched_if_an_archive_is_gone(server, fetch, tmp_path):
    server.faults[f"{publishers.COCO}/zips/val2014.zip"] = [status(404)]
    with pytest.raises(ConfigError, match=r"val2014\.zip: HTTP 404"):
        fetch("coco-captions")
    assert files_below(tmp_path / "data") == {"download.json", ".lock"}


def test_finished_archives_are_not_fetched_again(server, fetch):
    last, first = (f"{publishers.COCO}/zips/{split}2014.zip" for split in ("val", "train"))
    content = server.files[last]
    server.files[last] = content[::-1]
    with pytest.raises(ConfigError, match="was published"):
        fetch("coco-captions")
    server.files[last] = content
    before = server.ranges_of(first)
    fetch("coco-captions")
    assert server.ranges_of(first) == before


def test_download_resumes_inside_an_archive(server, fetch, tmp_path):
    path = f"{publishers.COCO}/zips/train2014.zip"
    content = server.files[path]
    server.faults[path] = [cut_after(0), cut_after(2000)]
    fetch("coco-captions")
    assert server.ranges_of(path) == [None, None, "bytes=2000-"]
    assert len(content) > 2000
    assert_pictures(load_table(coco_config(tmp_path), "train"))


def test_mirror_that_is_no_url_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"^data/mirror/downloads\.cs\.stanford\.edu.*http"):
        download("gqa", tmp_path, mirror="data/mirror")


def test_changed_archive_is_refused(server, fetch, tmp_path):
    server.files[f"{publishers.VQA}/v2_Questions_Val_mscoco.zip"] += b"x"
    with pytest.raises(ConfigError, match="were published"):
        fetch("vqav2")


def test_corrupt_members_are_counted_and_named(server, fetch, tmp_path):
    content = bytearray(server.files[f"{publishers.GQA}/images.zip"])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        offset = archive.getinfo("images/7.jpg").header_offset
    content[offset + 60] ^= 255
    server.files[f"{publishers.GQA}/images.zip"] = bytes(content)
    whole = fetch("gqa", "whole")
    assert whole["skipped"] == {"a corrupt member": 1}
    assert whole["source"][1]["skipped"] == {"a corrupt member": ["images/7.jpg"]}
    assert fetch("gqa", "part", rows=35)["skipped"] == {"a corrupt member": 1}


def test_page_instead_of_an_archive_is_refused(server, fetch):
    server.files[f"{publishers.GQA}/questions1.2.zip"] = b"<html>moved</html>"
    with pytest.raises(ConfigError, match="is not a zip file"):
        fetch("gqa")


def test_archive_of_other_content_is_refused(server, fetch):
    server.files[f"{publishers.GQA}/images.zip"] = zip_of({"pictures/1.jpg": b"x"})
    with pytest.raises(ConfigError, match=r"it has no images/\*\.jpg"):
        fetch("gqa")


def test_rows_count_pictures_that_are_not_in_the_archive(server, fetch, encode_image):
    picture = encode_image(0, "JPEG")
    server.files[f"{publishers.GQA}/images.zip"] = zip_of({"images/1.jpg": picture})
    assert fetch("gqa", rows=35)["skipped"] == {"not in the archive": 34}


def test_rows_need_a_server_with_ranges(server, fetch):
    server.ranges = False
    with pytest.raises(ConfigError, match="leave out rows"):
        fetch("gqa", rows=2)


def test_full_disk_is_told_before_anything_is_fetched(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(0, 0, 30_000))
    with pytest.raises(ConfigError, match="the data set needs"):
        fetch("coco-captions")
    assert not [*(tmp_path / "data").rglob("*.zip*")]


def test_interrupted_part_equals_a_whole_one(server, fetch, tmp_path):
    fetch("gqa", "a", rows=4)
    server.faults[f"{publishers.GQA}/images.zip"] = [answer] * 8 + [status(404)]
    with pytest.raises(ConfigError, match="404"):
        fetch("gqa", "b", rows=4)
    fetch("gqa", "b", rows=4)
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


def fetch_until(seconds, fetch, rows):
    """A download that the system kills after so many seconds."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    fetch("gqa", "killed", rows=rows)


@pytest.mark.parametrize("rows", [None, 8], ids=["whole", "part"])
def test_killed_download_equals_an_uninterrupted_one(server, fetch, tmp_path, rows):
    expected = fetch("gqa", "expected", rows=rows)
    context, exits = multiprocessing.get_context("fork"), []
    for number in range(20):
        moment = 0.02 * 1.7**number
        process = context.Process(target=fetch_until, args=(moment, fetch, rows))
        process.start()
        process.join()
        exits.append(process.exitcode)
        if process.exitcode != -signal.SIGALRM:
            break
    assert len(exits) > 2
    assert exits[-1] == 0
    assert fetch("gqa", "killed", rows=rows) == expected
    names = files_below(tmp_path / "expected")
    assert files_below(tmp_path / "killed") == names
    for name in names - {".lock"}:
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "expected" / name
        ).read_bytes()
