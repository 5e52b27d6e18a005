"""Checks of an experiment before anything is encoded."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from edge_lib.config import ConfigError, load_config
from edge_lib.data.table import Table
from edge_lib.experiments import align, checks, trm_qa
from edge_lib.experiments.checks import check_experiment
from edge_lib.features.store import store_names
from edge_lib.models import Aligner
from edge_lib.runs import Run
from edge_lib.sources import load_table

SILENT = "data.scenes.speech=false audio=null fusion.modalities=[vision] "  # speech takes minutes
QA = (
    "data.questions.train_scenes=10 data.questions.val_scenes=2 data.questions.test_scenes=2 "
    "data.questions.per_scene=4 qa.questions_per_image=2 qa.train.batch_size=8 qa.curriculum=null "
)
CHAT = (
    "data.conversations.train_scenes=6 data.conversations.val_scenes=2 "
    "data.conversations.test_scenes=2 data.conversations.per_scene=2 "
    "vlm.stages.projector.batch_size=8 vlm.stages.lora.batch_size=8 "
)


def problems(config):
    """The lines of the error; none if the config passes."""
    try:
        check_experiment(config)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.fixture
def make_qa(small_align):
    where = f"data.cache_dir={small_align().data.cache_dir} "
    return lambda overrides="": load_config("params/tiny/trm_qa.yaml", QA + where + overrides)


@pytest.fixture
def make_chat(small_align):
    where = f"data.cache_dir={small_align().data.cache_dir} "
    return lambda overrides="": load_config("params/tiny/vlm.yaml", CHAT + where + overrides)


@pytest.fixture
def make_parquet(encode_image, tmp_path):
    """make_parquet("key=value ...", captions=[...], column) -> a config of images with captions in
    Parquet files, one for each split, all alike.
    """

    def make(overrides="", captions=("one",) * 20, column="caption"):
        splits = ("train", "val", "test")
        images = [encode_image(number) for number in range(len(captions))]
        for split in splits:
            table = pa.table({"image": images, column: list(captions)})
            pq.write_table(table, tmp_path / f"{split}.parquet")
        files = " ".join(f"data.parquet.{split}=[{tmp_path}/{split}.parquet]" for split in splits)
        where = f"data.source=parquet {files} data.cache_dir={tmp_path} train.batch_size=16 "
        return load_config("params/tiny/align.yaml", where + overrides)

    return make


def test_check_accepts_experiments_that_can_run(
    small_align, small_trimodal, make_qa, make_chat, make_parquet
):
    for config in (small_align(), small_trimodal(SILENT), make_qa(), make_chat()):
        check_experiment(config)
    check_experiment(make_parquet("data.hard_negatives=false"))


def test_check_decodes_no_item(small_align, make_qa, make_chat, monkeypatch):
    monkeypatch.setattr(Table, "decode", None)
    for config in (small_align(), make_qa(), make_chat()):
        check_experiment(config)


def test_check_names_all_problems_at_once(make_parquet):
    captions = ["one"] * 5 + [None] * 3
    overrides = "train.precision=fp16 audio.encoder=tiny-whisperer"
    assert problems(make_parquet(overrides, captions)) == [
        "train.precision=fp16 needs a GPU; use fp32 or bf16",
        "tiny-whisperer is not shipped; did you mean 'tiny-whisper'? shipped models: "
        "efficientnet-lite0, tiny-resnet, tiny-whisper, tiny-qwen2, all-MiniLM-L6-v2, "
        "sentence-transformers/all-MiniLM-L6-v2",
        "audio: no row of parquet train has audio",
        "audio: no row of parquet val has audio",
        "audio: no row of parquet test has audio",
        "parquet train: usable rows: 5 do not fill one batch of 16; reduce batch_size",
        "data.hard_negatives: parquet train has no groups of rows",
    ]


def test_check_names_modalities_without_items(make_parquet):
    config = make_parquet("audio.encoder=tiny-whisper data.hard_negatives=false")
    names = [f"parquet {split}" for split in ("train", "val", "test")]
    assert problems(config) == [f"audio: no row of {name} has audio" for name in names]


def test_check_names_missing_files_and_columns(make_parquet, tmp_path):
    config = make_parquet(column="alt")
    (tmp_path / "train.parquet").unlink()
    missing, *columns = problems(config)
    assert missing == f"data.parquet.train: no file matches {tmp_path}/train.parquet"
    assert columns == [
        f"{tmp_path}/{split}.parquet: no column 'caption'; it has 'image', 'alt'"
        for split in ("val", "test")
    ]


def test_check_names_all_problems_of_a_config_with_fusions(small_trimodal, tmp_path):
    splits = ("train", "val", "test")
    files = " ".join(f"data.parquet.{s}={tmp_path}/{s}.parquet" for s in splits)
    found = problems(small_trimodal(f"data.source=parquet {files} train.precision=fp16"))
    assert found == [
        "train.precision=fp16 needs a GPU; use fp32 or bf16",
        *(f"data.parquet.{s}: no file matches {tmp_path}/{s}.parquet" for s in splits),
    ]


def test_check_opens_each_table_once(small_trimodal, monkeypatch):
    opened = []
    monkeypatch.setattr(
        checks, "load_table", lambda data, split: opened.append(split) or load_table(data, split)
    )
    check_experiment(small_trimodal(SILENT))
    assert sorted(opened) == ["degraded-train", "test", "train", "val"]


@pytest.mark.parametrize("damage", ["{share: 0.3}", "null"])
def test_check_needs_a_batch_of_degraded_rows_where_these_are_trained_on(small_trimodal, damage):
    overrides = f"fusion.train.batch_size=48 fusion.damage={damage}"
    assert problems(small_trimodal(SILENT + overrides)) == (
        []
        if damage == "null"
        else [
            "scenes degraded-train: usable rows: 32 do not fill one batch of 48; reduce batch_size"
        ]
    )


def test_check_compares_features_with_those_a_run_started_with(make_parquet, tmp_path):
    """Before encoding; a run that has not started accepts any, and is left as it is."""
    config, run = make_parquet("data.hard_negatives=false"), Run(tmp_path / "run")
    tables = [load_table(config.data, split) for split in ("train", "val")]
    check_experiment(config, run)
    assert not run.folder.exists()
    part = run.part("only_text")
    part.ensure_unchanged("features", store_names(config.feature_spec, *tables))
    check_experiment(config, run)
    config = make_parquet("data.hard_negatives=false", ["one"] * 19 + ["corrected"])
    with pytest.raises(ConfigError, match="features changed since this run started") as caught:
        check_experiment(config, run)
    assert str(caught.value).splitlines() == [str(caught.value)]
    assert str(caught.value).startswith(str(part.folder))


@pytest.mark.parametrize("kind", ["qa", "vlm"])
def test_check_compares_features_of_a_saved_aligner(
    kind, make_qa, make_chat, aligner_folder, tmp_path
):
    make, prefix = {"qa": (make_qa, "qa-"), "vlm": (make_chat, "chat-")}[kind]
    config = make(f"aligner.config=null aligner.folder={aligner_folder}")
    spec = Aligner.untrained(aligner_folder).feature_spec(
        config.features, config.data.cache_dir, ["vision"]
    )
    same, other = Run(tmp_path).part("same"), Run(tmp_path).part("other")
    tables = [load_table(config.data, f"{prefix}{split}") for split in ("train", "val")]
    same.ensure_unchanged("features", store_names(spec, *tables))
    check_experiment(config, same)
    other.ensure_unchanged("features", store_names(spec, *tables[::-1]))
    with pytest.raises(ConfigError, match="other: features changed since this run started"):
        check_experiment(config, same, other)
    gone = make(f"aligner.config=null aligner.folder={tmp_path}")
    with pytest.raises(ConfigError, match="no saved aligner in"):
        check_experiment(gone, other)


def test_check_names_tables_without_rows_of_two_modalities(make_parquet):
    config = make_parquet("data.hard_negatives=false", [None] * 8)
    assert "parquet train: rows with two modalities: there are none" in problems(config)


def test_check_needs_two_modalities(small_align):
    (first, *_) = problems(small_align("text=null"))
    assert first == "alignment needs sections of two modalities: vision, audio or text"


def test_check_compares_hard_negatives_with_groups(small_align, make_parquet):
    assert problems(make_parquet()) == ["data.hard_negatives: parquet train has no groups of rows"]
    (line,) = problems(small_align("train.batch_size=18"))
    assert line.endswith("train.batch_size=18 is not a multiple of the group size 4")


def test_check_compares_fusion_batches_with_degraded_rows(small_trimodal):
    (line,) = problems(small_trimodal(SILENT + "fusion.train.batch_size=64"))
    assert line.startswith("scenes degraded-train: usable rows: 32 do not fill one batch of 64")


def test_check_compares_question_batches_with_images_and_kinds(make_qa):
    (line,) = problems(make_qa("qa.train.batch_size=64"))
    assert "images with questions: 10 do not fill one batch of 32" in line
    (line,) = problems(make_qa("'qa.curriculum={kinds: [colours], steps: 2}'"))
    assert line.startswith("qa.curriculum.kinds: no question is of kind colours; kinds are ")


def test_check_compares_chat_batches_with_conversations(make_chat):
    (line,) = problems(make_chat("vlm.stages.lora.batch_size=64"))
    expected = "vlm.stages.lora: conversations train: conversations: 12 do not fill one batch of 64"
    assert line.startswith(expected)


def test_check_names_tables_without_a_usable_conversation(make_chat, tmp_path):
    question = [{"id": 1, "conversations": [{"from": "human", "value": "what?"}]}]
    for split in (splits := ("train", "val", "test")):
        (tmp_path / f"{split}.json").write_text(json.dumps(question))
    files = ", ".join(f"{split}: {tmp_path}/{split}.json" for split in splits)
    llava = f"'data.conversations.llava={{files: {{{files}}}, images: {tmp_path}}}'"
    lines = problems(make_chat(f"data.conversations.source=llava {llava}"))
    error = "no conversation can be used: 1 no assistant turn"
    assert lines == [f"llava {split}: {error}" for split in ("train", "val", "test")]


def test_check_names_tables_without_any_image(make_chat, tmp_path):
    """A language model alone needs none of this; and the test split's controls need images."""
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "so"}]
    for split in (splits := ("train", "val", "test")):
        (tmp_path / f"{split}.json").write_text(json.dumps([{"conversations": turns}] * 8))
    files = ", ".join(f"{split}: {tmp_path}/{split}.json" for split in splits)
    llava = f"'data.conversations.llava={{files: {{{files}}}, images: {tmp_path}}}'"
    train, *others = problems(make_chat(f"data.conversations.source=llava {llava}"))
    stage = "vlm.stages.projector: llava train: conversations with an image or clip: there are none"
    assert train.startswith(stage)
    error = "vlm.prefix_sources.image: no row of llava {} has image"
    assert others == [error.format(split) for split in ("val", "test")]


def test_check_names_tables_whose_conversations_are_all_refused(make_chat):
    """By the tokenizer, which is known before anything is encoded."""
    lines = problems(make_chat("vlm.max_length=8"))
    refused = {"train": 12, "val": 4, "test": 4}
    for line, (split, count) in zip(lines, refused.items(), strict=True):
        error = f"no conversation can be used: {count} refused by the chat template"
        assert line == f"conversations {split}: {error}"


def test_check_compares_processes_with_gpus(small_align, make_chat, monkeypatch):
    sharded = "vlm.stages.lora.sharding=zero2"
    assert problems(make_chat(sharded)) == [f"{sharded} needs GPUs; use null"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for installed in (True, False):
        monkeypatch.setattr(checks, "is_deepspeed_available", lambda now=installed: now)
        error = [] if installed else [f"{sharded} needs DeepSpeed: pip install deepspeed"]
        assert problems(make_chat(sharded)) == error
    for key in ("launch.num_processes", "features.num_processes"):
        assert problems(small_align(f"features.num_processes=1 {key}=2")) == []
        (line,) = problems(small_align(f"features.num_processes=1 {key}=4"))
        assert line == "4 processes do not fit on the 2 GPUs of this machine"


def test_points_of_sweeps_are_checked_before_encoding(small_align, make_qa, tmp_path, monkeypatch):
    for module in (align, trm_qa):
        monkeypatch.setattr(module, "write_features", None)
    with pytest.raises(ConfigError, match="do not fill one batch of 400"):
        align.measure_aligner(small_align("train.batch_size=400"), tmp_path)
    with pytest.raises(ConfigError, match="do not fill one batch of 32"):
        trm_qa.measure_decoder(make_qa("qa.train.batch_size=64"), "trm", tmp_path, tmp_path)
