"""Mozilla Common Voice: a tsv with sentences, and mp3 clips."""

import os
import shutil

import numpy as np
import pytest
from audio_helpers import encode, sine

from edge_lib.config import CommonVoiceConfig, ConfigError, DataConfig
from edge_lib.sources import load_table
from edge_lib.sources.split_names import SPLITS


@pytest.fixture
def common_voice(tmp_path):
    (tmp_path / "clips").mkdir()
    for name, rate in (("a.mp3", 32000), ("b.mp3", 48000)):
        (tmp_path / "clips" / name).write_bytes(encode(sine(1.0, rate), rate, "MP3"))
    (tmp_path / "clips" / "c.mp3").write_bytes(b"not an mp3")
    lines = ["client_id\tpath\tsentence\tup_votes"]
    lines += ['u\ta.mp3\tShe said "no.\t2', "u\tb.mp3\tNA\t2", "u\tc.mp3\tThree\t2"]
    lines += ["u\tgone.mp3\t \t0"]
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n")
    config = CommonVoiceConfig(folder=tmp_path)
    return DataConfig(source="common_voice", common_voice=config, cache_dir=tmp_path / "cache")


def test_common_voice_reads_tsv_and_mp3(common_voice):
    table = load_table(common_voice, "test")
    assert table.ids == ["a.mp3", "b.mp3", "c.mp3", "gone.mp3"]
    assert table.captions == ['She said "no.', "NA", "Three"]
    clips = table.clips(range(4))
    assert [clip is None for clip in clips] == [False, False, True, True]
    for clip in clips[:2]:  # MP3 pads with some silence
        assert 16000 <= len(clip) < 19000
        spectrum = np.abs(np.fft.rfft(clip[:16000]))
        assert abs(int(spectrum.argmax()) - 440) <= 2
    assert table.skipped["audio does not decode"] == ["c.mp3", "gone.mp3"]
    assert table.skipped["no caption"] == ["gone.mp3"]


HEADER = ["client_id", "path", "sentence_id", "sentence", "up_votes", "down_votes", "segment"]


@pytest.fixture
def load(tmp_path):
    """load([fields of a row or bytes of a line, ...]) -> the table of these lines after HEADER."""
    (tmp_path / "clips").mkdir()

    def load(*rows, header=HEADER, start=b"", end=b"\n", split="test"):
        rows = [row if isinstance(row, bytes) else "\t".join(row).encode() for row in rows]
        lines = [start + "\t".join(header).encode(), *rows]
        (tmp_path / "test.tsv").write_bytes(b"".join(line + end for line in lines))
        config = CommonVoiceConfig(folder=tmp_path)
        data = DataConfig(source="common_voice", common_voice=config, cache_dir=tmp_path / "cache")
        return load_table(data, split)

    return load


def row(name, sentence, votes=2, **changes):
    fields = dict(
        zip(HEADER, ["u", f"{name}.mp3", "s1", sentence, f"{votes}", "0", ""], strict=True)
    )
    return list((fields | changes).values())


GOOD = [row("a", "One."), row("b", "Two.", segment="Benchmark"), row("c", "Three.")]


@pytest.mark.parametrize(
    ("position", "line"),
    [(0, 3), (1, 3), (3, 3), (4, 3)],
    ids=["before the client", "before the clip", "before the sentence", "after the sentence"],
)
def test_common_voice_skips_rows_with_an_extra_tab(load, position, line):
    shifted = row("b", "Two.", segment="x")
    shifted.insert(position, "extra")
    table = load(GOOD[0], shifted, GOOD[2])
    assert (table.ids, table.captions) == (["a.mp3", "c.mp3"], ["One.", "Three."])
    assert table.skipped == {"fields do not match the header": [f"line {line}"]}


def test_common_voice_skips_an_extra_tab_in_the_first_row(load):
    """pandas takes the first column for an index then, which shifts those of all rows."""
    table = load(row("a", "One\t."), GOOD[1], GOOD[2])
    assert (table.ids, table.captions) == (["b.mp3", "c.mp3"], ["Two.", "Three."])
    assert table.skipped == {"fields do not match the header": ["line 2"]}


def test_common_voice_drops_empty_fields_after_the_last(load):
    table = load([*GOOD[0], ""], [*GOOD[1], "", ""], GOOD[2], header=[*HEADER, ""])
    assert (table.ids, table.captions) == (["a.mp3", "b.mp3", "c.mp3"], ["One.", "Two.", "Three."])
    assert not table.skipped


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize(
    "gap", ["\n", "\r\n", "\n\n", "\r"], ids=["LF", "CRLF", "empty line", "CR"]
)
def test_common_voice_joins_sentences_with_line_breaks(load, end, gap):
    table = load(GOOD[0], row("b", f"Two{gap}and{gap}more."), GOOD[2], end=end)
    assert table.captions == ["One.", "Two and more.", "Three."]
    assert not table.skipped


def test_common_voice_skips_what_is_no_row(load):
    short, shifted = GOOD[1][:4], ["", *row("d", "Four.")][:-1]
    latin = "\t".join(row("e", "Café")).encode("latin-1")
    lines = [
        b"stray line",
        GOOD[0],
        short,
        shifted,
        latin,
        row("", "No clip.", path=" "),
        GOOD[2],
        b"end",
    ]
    table = load(*lines)
    assert (table.ids, table.captions) == (["a.mp3", "c.mp3"], ["One.", "Three."])
    assert table.skipped == {
        "fields do not match the header": ["line 2", "line 4", "line 5", "line 9"],
        "not UTF-8": ["line 6"],
        "no name of a clip": ["line 7"],
    }


def test_common_voice_keeps_characters_that_other_readers_interpret(load):
    sentences = [
        '"Quoted',
        'a "b" c',
        "NA",
        "null",
        "line\u2028separator",
        "next\x85line",
        "# no",
        "é",
    ]
    table = load(*[row(f"{n}", text) for n, text in enumerate(sentences)], start=b"\xef\xbb\xbf")
    assert table.captions == sentences
    assert not table.skipped


def test_common_voice_reads_names_of_old_releases(load, tmp_path):
    """Clips without an ending, named by a hash; the sentence of one has a line break."""
    names, header = ["0a" * 32, "0b" * 32], ["client_id", "path", "sentence", "up_votes", "age"]
    rows = [["u", names[0], "One\nand two.", "2", ""], ["u", names[1], "Three.", "2", ""]]
    table = load(*rows, header=header)
    assert (table.ids, table.captions) == (names, ["One and two.", "Three."])
    paths = [cell["path"] for cell in table.dataset["audio"][:]]
    assert paths == [str(tmp_path / "clips" / f"{name}.mp3") for name in names]


def test_common_voice_splits_may_be_named_without_their_ending(load, tmp_path):
    load(*GOOD)
    (tmp_path / "test.tsv").rename(tmp_path / "validated.tsv")
    for name in ("validated", "validated.tsv"):
        config = CommonVoiceConfig(folder=tmp_path, train=name)
        data = DataConfig(source="common_voice", common_voice=config, cache_dir=tmp_path / "cache")
        assert len(load_table(data, "train")) == 3
    with pytest.raises(ConfigError, match=r"val: no such file .*dev\.tsv; there is validated\.tsv"):
        load_table(data, "val")


def test_common_voice_keeps_a_speaker_in_one_split(load, tmp_path):
    load(*[row(f"{n}", "x", client_id=f"speaker {n % 5}") for n in range(40)], b"odd")
    section = {"folder": tmp_path, "train": "test.tsv", "val": None, "test": None}
    split = {"val": 0.2, "test": 0.2, "by": "client_id"}
    data = {"source": "common_voice", "common_voice": section, "cache_dir": tmp_path / "cache"}
    tables = {name: load_table(DataConfig(**data, split=split), name) for name in SPLITS}
    speakers = [{int(name.split(".")[0]) % 5 for name in table.ids} for table in tables.values()]
    assert sorted(number for numbers in speakers for number in numbers) == [0, 1, 2, 3, 4]
    assert sum(map(len, tables.values())) == 40
    assert tables["train"].skipped == {"fields do not match the header": ["line 42"]}
    with pytest.raises(ConfigError, match=r"has no column \['voice'\]; it has \['client_id', "):
        load_table(DataConfig(**data, split=split | {"by": "voice"}), "val")
    with pytest.raises(ConfigError, match=r"common_voice\.val names no file; name one, or take"):
        load_table(DataConfig(**data), "val")


def test_common_voice_fingerprint_follows_the_clips(load, tmp_path):
    def write(name, content):
        (tmp_path / "clips" / name).write_bytes(content)

    write("a.mp3", b"one")
    first = load(*GOOD).fingerprint
    write("b.mp3", b"two")  # a clip that is added later
    late = load(*GOOD).fingerprint
    write("a.mp3", b"eno")
    changed = load(*GOOD).fingerprint
    assert len({first, late, changed}) == 3
    os.utime(tmp_path / "clips" / "a.mp3", (1, 1))
    assert load(*GOOD).fingerprint == changed
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    config = CommonVoiceConfig(folder=tmp_path / "copy")
    data = DataConfig(source="common_voice", common_voice=config, cache_dir=tmp_path / "cache")
    assert load_table(data, "test").fingerprint == changed
    (tmp_path / "copy" / "clips" / "b.mp3").write_bytes(b"another clip of that name")
    assert load_table(data, "test").fingerprint != changed


def test_common_voice_rejects_files_without_rows(load, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.common_voice\.test: .*test\.tsv is empty"):
        load()
    with pytest.raises(
        ConfigError, match=r"fields do not match the header: line 2 has 1, the head"
    ):
        load(b"text")
    with pytest.raises(ConfigError, match=r"has no column \['path', 'sentence'\]; it has \['x'\]"):
        load(header=["x"])
    (tmp_path / "clips").rmdir()
    with pytest.raises(ConfigError, match=r"common_voice\.folder: no such folder .*clips"):
        load(*GOOD)


def test_common_voice_errors_name_missing_files_and_columns(common_voice, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.common_voice\.train: no such file .*train\.tsv"):
        load_table(common_voice, "train")
    (tmp_path / "test.tsv").write_text("client\tsentence\nu\tone\n")
    with pytest.raises(ConfigError, match=r"has no column \['path'\]"):
        load_table(common_voice, "test")
