"""The commands and paths that params/full name; test_archives.py and test_hub.py run the rest."""

import inspect
import re
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_lib import load_config, load_table
from edge_lib.config import ROOT
from edge_lib.sources.download import download_class, make_download
from edge_lib.sources.download.flags import parse_flags

FULL = sorted((ROOT / "params/full").glob("*.yaml"))
COMMANDS = [
    (path.stem, command)
    for path in FULL
    for command in re.findall(r"edge-glass download (.+)", path.read_text())
]


@pytest.mark.parametrize(("config", "command"), COMMANDS, ids=lambda text: text)
def test_command_writes_what_the_config_reads(config, command):
    name, *flags = shlex.split(command)
    job = make_download(name, parse_flags(name, download_class(name), flags))
    out = flags[flags.index("--out") + 1]
    assert str(job.out).endswith(out)
    text = (ROOT / f"params/full/{config}.yaml").read_text()
    assert re.search(rf"^[^#]*\b{out}/", text, re.MULTILINE)


@pytest.mark.parametrize(
    "name", ["coco-captions", "vqav2", "gqa", "llava-665k", "open-orca", "common-voice"]
)
def test_help_names_size_licence_and_source(name):
    text = inspect.getdoc(download_class(name))
    assert re.search(r"\d GB", text)
    assert re.search(r"CC BY|CC0|MIT", text)
    assert re.search(r"`data\.[a-z._]+(: \w+)?` reads it", text)
    assert "--rows" in text


def test_every_set_of_params_full_has_a_command():
    assert {command.split()[0] for _, command in COMMANDS} == {
        "pixmo-cap",
        "vqav2",
        "llava-665k",
        "open-orca",
    }


def test_pixmo_shards_are_what_params_full_names(tmp_path, monkeypatch, encode_image):
    monkeypatch.setattr("edge_lib.config.base.ROOT", tmp_path)
    folder = tmp_path / "data/pixmo-cap"
    folder.mkdir(parents=True)
    for shard in range(2):
        rows = [
            {"image": encode_image(100 * shard + n), "caption": f"{shard} {n}", "url": "http://a"}
            for n in range(100)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"train-{shard:05}.parquet")
    config = load_config(ROOT / "params/full/align.yaml", "data.cache_dir=cache").data
    sizes = [len(load_table(config, split)) for split in ("train", "val", "test")]
    assert sum(sizes) == 200
    assert all(sizes)
