"""Generated tables: named by config and version, independent of source text and of eSpeak."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import edge_lib
from edge_lib.config import DataConfig, ScenesConfig
from edge_lib.sources import load_table
from edge_lib.sources.generated import generated_path
from edge_lib.sources.scenes import conversations, question_table, table

PACKAGE = Path(edge_lib.__path__[0])
SIZES = {"train_size": 4, "val_size": 4, "test_size": 4, "swap_size": 2}
SPLITS = {"scenes": "test", "questions": "qa-test", "conversations": "chat-test"}


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


def run_python(code, package=PACKAGE):
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.fixture
def config(tmp_path):
    sizes = {"train_scenes": 2, "val_scenes": 2, "test_scenes": 2}
    return DataConfig(
        scenes=ScenesConfig(**SIZES),
        questions=sizes,
        conversations=sizes,
        cache_dir=tmp_path / "cache",
    )


LOAD = """
from edge_lib.config import DataConfig
from edge_lib.sources import load_table
config = DataConfig.model_validate_json({config!r})
for split in {splits!r}:
    assert len(load_table(config, split))
"""


def test_generated_tables_survive_edits_of_the_source_text(config, tmp_path):
    for split in SPLITS.values():
        load_table(config, split)
    files = files_in(config.cache_dir)
    assert {path.parent.name.split("-")[0] for path in files} == set(SPLITS)
    copy = tmp_path / "edited" / "edge_lib"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    for path in copy.glob("sources/**/*.py"):
        path.write_text(path.read_text() + "\n# edited\n")
    code = LOAD.format(config=config.model_dump_json(), splits=[*SPLITS.values()])
    run_python(code, copy)
    assert files_in(config.cache_dir) == files


@pytest.mark.parametrize(
    ("module", "split"),
    [(table, "test"), (question_table, "qa-test"), (conversations, "chat-test")],
    ids=SPLITS,
)
def test_version_change_generates_another_table(module, split, config, monkeypatch):
    load_table(config, split)
    before = files_in(config.cache_dir)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    load_table(config, split)
    after = files_in(config.cache_dir)
    assert before.items() < after.items()
    assert len(after) == 2


def test_generated_path_ignores_keys_at_their_defaults(tmp_path):
    class Extended(ScenesConfig):
        new_key: int = 7

    def path(section):
        return generated_path(tmp_path, "scenes", section, 1, "test")

    assert (
        path(Extended(**SIZES)) == path(Extended(**SIZES, new_key=7)) == path(ScenesConfig(**SIZES))
    )
    assert path(Extended(**SIZES, new_key=8)) != path(ScenesConfig(**SIZES))


def test_opening_tables_does_not_load_espeak(config, tmp_path, encode_image):
    spoken = config.model_copy(update={"scenes": ScenesConfig(**SIZES, speech=True)})
    load_table(spoken, "test")  # speaks, in processes of its own
    files = {split: [f"{tmp_path}/{split}.parquet"] for split in ("train", "val", "test")}
    pq.write_table(pa.table({"image": [encode_image()], "caption": ["one"]}), *files["test"])
    parquet = DataConfig(source="parquet", parquet=files, cache_dir=config.cache_dir)
    tables = ((config, [*SPLITS.values()]), (spoken, ["test"]), (parquet, ["test"]))
    code = "".join(LOAD.format(config=c.model_dump_json(), splits=splits) for c, splits in tables)
    run_python(f"{code}\nimport sys\nassert 'espeakng_loader' not in sys.modules")
