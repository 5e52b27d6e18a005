"""Mozilla Common Voice: a tsv with sentences, and mp3 clips."""

import numpy as np
import pytest
from audio_helpers import encode, sine

from edge_lib.config import CommonVoiceConfig, ConfigError, DataConfig
from edge_lib.sources import load_table


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
    return DataConfig(source="common_voice", common_voice=CommonVoiceConfig(folder=tmp_path))


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


def test_common_voice_errors_name_missing_files_and_columns(common_voice, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.common_voice\.train: no such file .*train\.tsv"):
        load_table(common_voice, "train")
    (tmp_path / "test.tsv").write_text("client\tsentence\nu\tone\n")
    with pytest.raises(ConfigError, match=r"has no column \['path'\]"):
        load_table(common_voice, "test")
