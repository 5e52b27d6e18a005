"""Checks across sections: each problem has its message, and all are reported together."""

import pytest

from edge_lib.config import load_config

ALIGN = "vision.encoder=a text.encoder=b"
QA = f"{ALIGN} qa.train.batch_size=64"
VLM = "vlm.language.model=a"
FUSION = f"{ALIGN} audio.encoder=c fusion.train.batch_size=16"
PROBLEMS = {
    "pair without section": (f"{ALIGN} loss.pairs=[[vision,audio]]", "loss.pairs names audio"),
    "fusion without section": (f"{ALIGN} fusion.width=16", "fusion names audio, which has no"),
    "fusion of tokens": (f"{FUSION} audio.pooler=tokens", "audio.pooler=tokens keeps every token"),
    "heads that differ": (
        f"{ALIGN} text.pooler=tokens text.head=maxsim",
        "vision.head=pooled, text.head=maxsim: all modalities need the same head",
    ),
    "fusion of transformers": (
        f"{FUSION} audio.pooler=transformer",
        "audio.pooler=transformer keeps every token, but fusion",
    ),
    "fusion of maxsim": (
        f"{FUSION} "
        + " ".join(f"{m}.pooler=perceiver {m}.head=maxsim" for m in ("vision", "audio", "text")),
        "head=maxsim keeps a vector for each token, but fusion needs one",
    ),
    "sigmoid of maxsim": (
        f"{ALIGN} loss.kind=sigmoid vision.pooler=tokens text.pooler=tokens "
        "vision.head=maxsim text.head=maxsim",
        "loss.kind=sigmoid: heads with head=maxsim are trained with info_nce",
    ),
    "augment with store": (f"{ALIGN} vision.augment=true", "vision.augment needs features.online"),
    "workers online": (
        "train.num_workers=1 features.online=true",
        "train.num_workers must be 0 with features.online or features.on_device",
    ),
    "workers on device": (
        "train.num_workers=1 features.on_device=true",
        "train.num_workers must be 0 with features.online or features.on_device",
    ),
    "stage workers on device": (
        f"{VLM} vlm.stages.projector.num_workers=1 features.on_device=true",
        "vlm.stages.projector.num_workers must be 0 with features.online or features.on_device",
    ),
    "fusion workers online": (
        f"{FUSION} fusion.train.num_workers=1 features.online=true",
        "fusion.train.num_workers must be 0 with features.online or features.on_device",
    ),
    "qa online": (f"{QA} features.online=true", "qa and vlm train from the feature store"),
    "vlm online": (f"{VLM} features.online=true", "qa and vlm train from the feature store"),
    "device map": (
        f"{VLM} vlm.language.device_map=auto launch.num_processes=2",
        "vlm.language.device_map needs launch.num_processes=1",
    ),
    "batch over processes": (
        f"{ALIGN} train.batch_size=10 launch.num_processes=2 launch.num_nodes=2",
        "train.batch_size=10 is not a multiple of 4 (processes)",
    ),
    "merge of one layer": (
        "vision={encoder: tiny-resnet, layer: -2, merge_layers: concat}",
        "vision.merge_layers=concat needs a list of layers (layer=-2)",
    ),
    "captions in a batch": (
        f"{ALIGN} train.batch_size=64 data.captions_per_row=5",
        "train.batch_size=64 is not a multiple of data.captions_per_row=5",
    ),
    "fusemix online": (
        f"{ALIGN} data.fusemix=1 features.online=true",
        "data.fusemix mixes stored features and needs features.online=false",
    ),
    "fusemix of several captions": (
        f"{ALIGN} data.fusemix=1 data.captions_per_row=2",
        "data.fusemix needs data.captions_per_row=1",
    ),
    "fusemix of words": (
        f"{ALIGN} data.fusemix=1 text.pooler=mean",
        "text.pooler=mean reads tokens of any length, which data.fusemix cannot mix",
    ),
    "mining for a fusion": (
        f"{FUSION} fusion.train.hard_negatives.k=2",
        "fusion.train.hard_negatives: only the heads (train) mine hard negatives",
    ),
    "mining online": (
        f"{ALIGN} train.hard_negatives.k=2 features.online=true",
        "train.hard_negatives searches stored features and needs features.online=false",
    ),
    "mining in workers": (
        f"{ALIGN} train.hard_negatives.k=2 train.num_workers=1",
        "train.hard_negatives needs train.num_workers=0: loader processes lack the heads",
    ),
    "fusion batch": (
        f"{FUSION} launch.num_processes=3 train.batch_size=3",
        "fusion.train.batch_size=16 is not a multiple of 3 (processes)",
    ),
    "qa batch": (
        f"{QA} qa.questions_per_image=8 qa.train.batch_size=24 launch.num_processes=2",
        "qa.train.batch_size=24 is not a multiple of 16 (processes x qa.questions_per_image)",
    ),
    "stage batch": (
        f"{VLM} vlm.stages.lora.batch_size=9 launch.num_processes=2",
        "vlm.stages.lora.batch_size=9 is not a multiple of 2 (processes)",
    ),
    "sharded aligner": (
        f"{ALIGN} train.sharding=zero2",
        "train.sharding: only vlm.stages can be sharded",
    ),
    "wide dims": (
        "loss.dims=[64,32] evaluate.dims=[128,64]",
        "evaluate.dims [128] exceed the embedding, which has 64 dims (loss.dims)",
    ),
}


@pytest.mark.parametrize(("overrides", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_check_reports_its_problem(message, plain, overrides, problem):
    text = message(plain, overrides)
    assert text.startswith("overrides: ")
    assert problem in text
    assert ";" not in text, "no other problem is reported"


def test_checks_report_all_problems_in_one_error(message, plain):
    names = ("fusion without section", "augment with store", "batch over processes", "wide dims")
    text = message(plain, " ".join(PROBLEMS[name][0] for name in names))
    assert all(PROBLEMS[name][1] in text for name in names)
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        f"{ALIGN} train.batch_size=12 launch.num_processes=2 launch.num_nodes=2",
        "train.batch_size=9 launch.num_processes=2",  # no modality, so nothing is aligned
        f"{QA} qa.questions_per_image=8 qa.train.batch_size=32 launch.num_processes=2",
        "loss.dims=[64,32] evaluate.dims=[64,16]",
        f"{FUSION}",
    ],
    ids=["processes", "unused train", "qa", "dims", "fusion"],
)
def test_checks_accept_what_fits(plain, overrides):
    load_config(plain, overrides)


@pytest.mark.parametrize(
    ("splits", "names"),
    [("aab", "train and val"), ("aba", "train and test"), ("baa", "val and test")],
)
def test_parquet_splits_must_name_different_files(message, plain, splits, names):
    files = zip(("train", "val", "test"), splits, strict=True)
    text = message(plain, {"data.parquet": {split: [f"{name}.parquet"] for split, name in files}})
    assert f"{names} name the same files: a.parquet" in text


@pytest.mark.parametrize(
    ("key", "rest"),
    [
        ("data.conversations.llava.files", {"data.conversations.llava.images": "images"}),
        ("data.conversations.messages.files", {}),
        ("data.conversations.parquet", {}),
        ("data.conversations.instructions.files", {}),
        ("data.questions.table", {}),
        ("data.questions.gqa.questions", {"data.questions.gqa.images": "images"}),
    ],
    ids=["llava", "messages", "parquet", "instructions", "questions", "gqa"],
)
def test_splits_of_chats_and_questions_must_name_different_files(message, plain, key, rest):
    section, source = key.split(".")[1:3]
    files = {"train": "a.json", "val": "b.json", "test": "a.json"}
    text = message(plain, {f"data.{section}.source": source, key: files, **rest})
    assert "train and test name the same files: " in text
    assert "a.json; to divide one set, name it as train" in text
