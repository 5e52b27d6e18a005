"""The stamps data set, from packages that the tests make."""

import os
import random
import re
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from package_helpers import STAMPS, make_clip, make_deb, make_png, make_tar, make_thing

from edge_lib import download, load_table
from edge_lib.config import ConfigError, DataConfig
from edge_lib.sources.download import stamps as module
from edge_lib.sources.download.stamp_files import check_clip, parse_description, read_things

REAL = os.environ.get("EDGE_GLASS_STAMPS", "")  # the Debian package, which takes half a minute


def thing(number, clips=(), **options):
    """A picture, caption and translation of its own."""
    name, lines = f"kind{number % 3}/thing {number}", [f"fr.utf8=Chose {number}."]
    color = number, 99, 7, 255
    return make_thing(name, color, f"Thing {number}.", clips, options.get("lines", lines))


def many(count=20):
    files = [f for n in range(count) for f in thing(n, {"fr": 200 + 9 * n, "de": 999 + 9 * n})]
    return [(STAMPS + name, content) for name, content in files]


def read(things, root=STAMPS):
    """-> {id: Thing}, skipped."""
    skipped = defaultdict(list)
    result = read_things([(root + name, content) for name, content in things], skipped)
    return {x.id: x for x in result}, {reason: names for reason, names in skipped.items() if names}


def rows(folder, kind):
    """split -> its rows."""
    paths = sorted((folder / kind).glob("*.parquet"))
    return {path.name.split("-")[0]: pq.read_table(path).to_pylist() for path in paths}


@pytest.fixture
def package(tmp_path):
    def write(files=None, name="stamps.deb", make=make_deb, **options):
        path = tmp_path / name
        path.write_bytes(make(many() if files is None else files, **options))
        return path

    return write


def test_thing_has_picture_texts_and_clips():
    lines = ["fr.utf8=Un  chat.", "pt_BR.utf8=Um gato.", "ca@valencia.utf8=Un gat.", "de.utf8="]
    files = make_thing("animals/cat", "red", "A cat. 6x7=42", {"fr": 300}, lines)
    things, skipped = read([*files, ("animals/cat_desc.ogg", make_clip(500, 1.25))])
    cat = things["animals/cat"]
    assert (cat.image, cat.caption) == (files[0][1], "A cat. 6x7=42")
    assert cat.texts == {"ca@valencia": "Un gat.", "fr": "Un chat.", "pt_BR": "Um gato."}
    assert {code: clip.seconds for code, clip in cat.clips.items()} == {"en": 1.25, "fr": 0.5}
    assert cat.clips["fr"].content == dict(files)["animals/cat_desc_fr.ogg"]
    assert not skipped


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfA dog.\r\nfr.utf8=Un chien.\r\n", ("A dog.", {"fr": "Un chien."})),
        (b"\n  \nA dog.\n", ("A dog.", {})),
        (b"# by X (GFDL)\nA dog.\n#fr.utf8=Non", ("A dog.", {})),
        (b"A dog.\rfr.utf8=Un chien.", ("A dog.", {"fr": "Un chien."})),
        (b"A dog.\nfr=Un chi\xeann\nfr.utf8=\xff\nnl.utf8=Hond", ("A dog.", {"nl": "Hond"})),
        ("“Yield” é…\nzh_tw.utf8=狗\n".encode(), ("“Yield” é…", {"zh_TW": "狗"})),
        ("A\u2028dog.\x0b\n".encode(), ("A dog.", {})),
        (b"fr.utf8=Un chien.\n", (None, {"fr": "Un chien."})),
        (b"A dog.\nfr.utf8=Un\nfr.utf8=Deux", ("A dog.", {"fr": "Deux"})),
        ("A dog.".encode("utf-16"), (None, {})),
        (b"", (None, {})),
    ],
    ids=[
        *("bom and crlf", "blank lines", "comments", "cr", "latin-1", "unicode", "separators"),
        *("no english", "twice", "utf-16", "empty"),
    ],
)
def test_description_is_parsed(content, expected):
    assert parse_description(content) == expected


def broken():
    """(files, the reason why each gives no thing)."""
    text, png = b"A thing.\n", make_png("blue")
    return {
        "empty picture": [("a.png", b""), ("a.txt", text)],
        "picture that does not decode": [("b.png", png[:-30]), ("b.txt", text)],
        "picture without a description": [("c.png", png)],
        "no English description": [("d.png", png), ("d.txt", b"fr.utf8=Oui\n")],
        "SVG only": [("e.svg", b"<svg/>"), ("e.txt", text)],
        "description without a picture": [("f.txt", text)],
        "mirrored or flipped twin": [("good_mirror.png", png), ("good_flip.png", png)],
    }


def test_what_gives_no_thing_is_counted():
    files = [file for part in broken().values() for file in part]
    things, skipped = read([*make_thing("good", "red", "Good."), *files])
    assert [*things] == ["good"]
    expected = {reason: [part[0][0][0]] for reason, part in broken().items()}
    assert skipped == expected | {"mirrored or flipped twin": ["good_flip", "good_mirror"]}


def test_picture_that_claims_many_pixels_is_counted():
    png = make_png("red")
    bomb = png[:16] + b"\x00\x01\x00\x00" * 2 + png[24:]  # 65536 x 65536
    things, skipped = read([("a.png", bomb), ("a.txt", b"A bomb.")])
    assert (things, skipped) == ({}, {"picture that does not decode": ["a"]})


def test_clips_are_told_from_other_sounds():
    clip = make_clip(300)
    files = [
        *make_thing("a/Cat_desc", "red", "A cat."),
        *((f"a/Cat_desc_desc{end}", clip) for end in ("_pt_BR.wav", "_zh_tw.ogg", "_da.ogg.ogg")),
        *((f"a/Cat_desc{end}", clip) for end in (".ogg", "_en_GB.ogg", "_desc_da.ogg", ".dat")),
        ("a/dog_desc_fr.ogg", clip),
    ]
    things, skipped = read(files)
    assert [*things["a/Cat_desc"].clips] == ["da", "pt_BR", "zh_TW"]
    assert skipped == {
        "second clip of a language": [f"{STAMPS}a/Cat_desc_desc_da.ogg.ogg"],
        "clip of a thing left out": ["a/Cat en", "a/Cat en_GB", "a/dog fr"],
    }


def test_sound_effects_and_names_are_left_out():
    files = [*thing(1), ("kind1/thing 1.ogg", make_clip(1)), ("kind1/thing 1_fr.ogg", b"")]
    things, skipped = read(files)
    assert things["kind1/thing 1"].clips == {}
    assert skipped == {"sound that is no description": [STAMPS + name for name, _ in files[2:]]}


def test_bad_clips_are_counted():
    whole = make_clip(400, 2.0)
    bad = {"be": b"", "bg": whole[: len(whole) // 2], "ca": b"noise" * 99, "da": whole[:-1]}
    bad |= {"de": make_clip(1, 0, "WAV"), "el": whole}
    clips = [(f"kind1/thing 1_desc_{code}.ogg", content) for code, content in bad.items()]
    things, skipped = read([*thing(1), *clips])
    assert {k: c.seconds for k, c in things["kind1/thing 1"].clips.items()} == {"el": 2.0}
    assert skipped == {
        "empty clip": ["kind1/thing 1 be"],
        "clip that ends too early": ["kind1/thing 1 bg", "kind1/thing 1 da"],
        "clip that does not decode": ["kind1/thing 1 ca"],
        "clip without samples": ["kind1/thing 1 de"],
    }


def test_clip_cut_anywhere_is_bad():
    whole = make_clip(400, 1.0)
    sizes = random.Random(0).sample(range(1, len(whole)), 60)
    assert not [size for size in sizes if isinstance(check_clip(whole[:size]), float)]
    assert check_clip(whole) == 1.0


def test_names_that_leave_the_folder_are_not_used(package, tmp_path):
    evil = [(f"{STAMPS}../../../../evil.png", make_png("red")), (f"{STAMPS}a/\udcff.png", b"")]
    evil += [("/etc/evil.png", b""), ("../evil.png", b"")]
    path = package([*many(), *evil])
    summary = download("stamps", tmp_path / "out", file=path)
    assert summary["skipped"] == {"name of a file that is not valid": 2}
    assert not [*tmp_path.rglob("*evil*")]


def test_rows_do_not_depend_on_the_order_or_kind_of_the_archive(package, tmp_path):
    files = many()
    shuffled = random.Random(0).sample(files, len(files))
    tarball = [(f.replace("./usr/share/tuxpaint", "tuxpaint-stamps-1"), c) for f, c in shuffled]
    paths = [
        package(files, "a.deb"),
        package(shuffled, "b.deb", suffix="zst"),
        package(tarball, "tuxpaint-stamps-1.tar.gz", make_tar, suffix="gz"),
    ]
    folders = [tmp_path / f"out{number}" for number in range(len(paths))]
    summaries = [download("stamps", f, file=p) for f, p in zip(folders, paths, strict=True)]
    for kind in ("things", "voices"):
        assert rows(folders[0], kind) == rows(folders[1], kind) == rows(folders[2], kind)
    assert [s["version"] for s in summaries] == ["9.9-1", "9.9-1", "tuxpaint-stamps-1"]
    assert {s["verified"] for s in summaries} == {"no: its sha256 is not known beforehand"}


def test_summary_counts_what_was_written(package, tmp_path):
    summary = download("stamps", tmp_path / "out", file=package())
    things, voices = rows(tmp_path / "out", "things"), rows(tmp_path / "out", "voices")
    assert summary["rows"] == {
        "things": {split: len(part) for split, part in things.items()},
        "voices": {split: len(part) for split, part in voices.items()},
    }
    assert summary["rows"]["things"] == {"train": 16, "val": 2, "test": 2}
    assert summary["clips"] == {"de": 20, "fr": 20}
    assert summary["seconds"] == {"median": 0.5, "p99": 0.5, "longest": 0.5, "total": 20.0}
    assert summary["text_languages"] == 1


def test_voice_is_of_its_thing(package, tmp_path):
    files = dict(many())
    download("stamps", tmp_path / "out", file=package())
    things, voices = rows(tmp_path / "out", "things"), rows(tmp_path / "out", "voices")
    for split, part in voices.items():
        assert {row["image_id"] for row in part} == {row["id"] for row in things[split]}
        for row in part:
            name, number = STAMPS + row["image_id"], row["image_id"].split()[-1]
            assert row["id"] == f"{row['image_id']} {row['language']}"
            assert row["image"] == files[f"{name}.png"]
            assert row["audio"] == files[f"{name}_desc_{row['language']}.ogg"]
            assert row["caption"] == f"Thing {number}."
            assert row["spoken"] == (f"Chose {number}." if row["language"] == "fr" else None)


def test_equal_pictures_are_in_one_split(package, tmp_path):
    files = many(40)
    for number in range(12):  # the same pixels in other bytes
        name, colour = f"twin/{number}", (number, 99, 7, 255)
        same = make_thing(name, colour, f"Twin {number}.", {"fr": 5000 + number})
        png = same[0][1][:-12] + b"\0\0\0\5tEXta\0bcd\xc9\xb9\x00\x16" + same[0][1][-12:]
        files += [(STAMPS + f, png if f.endswith("png") else c) for f, c in same]
    download("stamps", tmp_path / "out", file=package(files))
    parts = rows(tmp_path / "out", "things")
    split = {row["id"]: name for name, part in parts.items() for row in part}
    assert {*split.values()} == {"train", "val", "test"}
    for number in range(12):
        assert split[f"twin/{number}"] == split[f"kind{number % 3}/thing {number}"]


def test_clip_of_an_earlier_split_is_left_out(package, tmp_path):
    files = many(40)
    for number in range(24):  # the clip of a thing under another picture
        other = make_thing(f"twin/{number}", (0, number, 0, 255), "Clip.", {"fr": 200 + 9 * number})
        files += [(STAMPS + name, content) for name, content in other]
    summary = download("stamps", tmp_path / "out", file=package(files))
    voices = rows(tmp_path / "out", "voices")
    clips = {split: {row["audio"] for row in part} for split, part in voices.items()}
    assert not clips["train"] & (clips["val"] | clips["test"])
    assert not clips["val"] & clips["test"]
    things = rows(tmp_path / "out", "things")
    split = {row["id"]: name for name, part in things.items() for row in part}
    pairs = [(f"twin/{n}", f"kind{n % 3}/thing {n}") for n in range(24)]
    apart = sum(split[twin] != split[thing] for twin, thing in pairs)
    assert summary["skipped"]["clip of an earlier split"] == apart > 0


def test_rows_take_a_random_part(package, tmp_path):
    path, chosen = package(many(30)), []
    for number, seed in enumerate([0, 0, 1]):
        folder = tmp_path / f"out{number}"
        summary = download("stamps", folder, file=path, rows=12, seed=seed)
        assert sum(summary["rows"]["things"].values()) == 12
        chosen.append({row["id"] for part in rows(folder, "things").values() for row in part})
    assert chosen[0] == chosen[1] != chosen[2]


def test_too_few_rows_are_an_error(package, tmp_path):
    with pytest.raises(ConfigError, match="2 things are too few for three splits; raise --rows"):
        download("stamps", tmp_path / "out", file=package(), rows=2)
    assert not [*(tmp_path / "out").rglob("*.parquet")]


def test_parquet_source_reads_things_and_voices(package, tmp_path):
    download("stamps", tmp_path / "out", file=package())
    for kind, audio in (("things", None), ("voices", "audio")):
        files = {s: f"{tmp_path}/out/{kind}/{s}-*.parquet" for s in ("train", "val", "test")}
        section = files | {"id_column": "id", "audio_column": audio}
        section |= {"image_id_column": "image_id"} if audio else {}
        data = DataConfig(source="parquet", parquet=section, cache_dir=tmp_path / "cache")
        table, expected = load_table(data, "train"), rows(tmp_path / "out", kind)["train"]
        assert [*table.ids] == [row["id"] for row in expected]
        assert [*table.captions] == [row["caption"] for row in expected]
        number = int(expected[3]["caption"].split()[1].strip("."))
        assert table.images([3])[0].getpixel((0, 0)) == (number, 99, 7)
        assert len(table.image_rows) == 16, "of each picture one"
        assert not audio or len(table.clips([3])[0]) == 8000


def test_translations_can_be_captions(package, tmp_path):
    download("stamps", tmp_path / "out", file=package())
    files = {s: f"{tmp_path}/out/things/{s}-*.parquet" for s in ("train", "val", "test")}
    section = files | {"caption_column": ["caption", "texts.text"]}
    data = DataConfig(source="parquet", parquet=section, cache_dir=tmp_path / "cache")
    captions = [*load_table(data, "val").captions]
    assert captions[1] == captions[0].replace("Thing", "Chose")


def test_wrong_sum_of_a_known_version_is_an_error(package, tmp_path):
    path = package(version="2022.06.04-1")
    with pytest.raises(ConfigError, match=r"is damaged, or not Debian's: the sha256 of ver"):
        download("stamps", tmp_path / "out", file=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"package": "vim"},
            "is the package vim; get the .deb from Debian's page of the package tux",
        ),
        ({"files": [("./usr/bin/x.png", b"")]}, "holds no stamps; get the .deb"),
        ({"make": lambda _: b"<html>404"}, "neither a Debian package nor a compressed tar"),
        ({"make": lambda files: make_deb(files)[:-999]}, "damaged or of another kind"),
    ],
    ids=["another package", "no stamps", "a page", "truncated"],
)
def test_other_files_are_errors(options, message, package, tmp_path):
    with pytest.raises(ConfigError, match=message):
        download("stamps", tmp_path / "out", file=package(**options))
    assert not (tmp_path / "out/download.json").exists()


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"--file .*no.deb: no such file; get the .deb from"):
        download("stamps", tmp_path / "out", file=tmp_path / "no.deb")


def test_machine_without_apt_is_told_where_the_file_is(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match=r"no apt-get on this machine; .*tuxpaint.org/download"):
        download("stamps", tmp_path / "out")


@pytest.mark.parametrize("version", ["9.9-1", "2022.06.04-1"])  # the latter is rebuilt by Ubuntu
def test_package_comes_from_apt(version, package, tmp_path, monkeypatch):
    path = package(version=version)
    monkeypatch.setattr(module.shutil, "which", lambda _: "/usr/bin/apt-get")
    monkeypatch.setattr(module, "apt_download", lambda name, folder: path)
    summary = download("stamps", tmp_path / "out", rows=15)
    assert (summary["source"], summary["version"]) == ("stamps.deb", version)
    assert summary["verified"] == "by apt-get when it was fetched"


def test_fetch_by_apt_is_announced(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "from_root", lambda _: tmp_path)
    monkeypatch.setattr(module.shutil, "which", lambda _: "/usr/bin/apt-get")
    monkeypatch.setattr(module, "apt_download", lambda name, folder: package())
    download("stamps", tmp_path / "out", rows=15)
    assert "apt-get fetches tuxpaint-stamps-default (161 MB)" in capsys.readouterr().err


def test_interrupted_reading_says_what_is_kept(package, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "read_things", interrupt)
    path = package()
    with pytest.raises(KeyboardInterrupt, match=rf"{path} is kept, .* reads it from the start"):
        download("stamps", tmp_path / "out", file=path)


def test_failed_apt_is_one_line(tmp_path, monkeypatch):
    def fail(name, folder):
        raise ConfigError(f"apt-get download {name}: Unable to locate package {name}")

    monkeypatch.setattr(module.shutil, "which", lambda _: "/usr/bin/apt-get")
    monkeypatch.setattr(module, "apt_download", fail)
    with pytest.raises(ConfigError) as caught:
        download("stamps", tmp_path / "out")
    line = "stamps: apt-get download .*: Unable to locate package .*; try apt-get update, or get .*"
    assert re.fullmatch(line, str(caught.value))


@pytest.mark.skipif(not Path(REAL).is_file(), reason="EDGE_GLASS_STAMPS names no package")
def test_real_package_gives_known_counts(tmp_path):
    summary = download("stamps", tmp_path / "out", file=REAL)
    assert (summary["version"], summary["verified"]) == ("2022.06.04-1", "by its sha256")
    assert summary["rows"] == {
        "things": {"train": 627, "val": 79, "test": 79},
        "voices": {"train": 5016, "val": 620, "test": 622},
    }
    assert summary["clips"]["fr"] == 767
    assert summary["skipped"] == {
        "sound that is no description": 440,
        "SVG only": 165,
        "mirrored or flipped twin": 11,
        "description without a picture": 2,
        "clip of a thing left out": 1175,
    }
