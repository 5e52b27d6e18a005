"""Questions and conversations of every source with 1% of their rows broken in every way: trained to
the end, each row accounted for, and scores as without them.
"""

import csv

import pytest
from campaign import broken_chats, broken_questions
from campaign.broken_cells import pictures

from edge_lib.config import load_config
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.data.chat_store import open_tokenized
from edge_lib.data.qa_batches import questions_by_image
from edge_lib.experiments.checks import check_experiment
from edge_lib.experiments.trm_qa import measure_decoder, vision_spec
from edge_lib.experiments.vlm import train_vlm
from edge_lib.experiments.vlm_checks import CHAT_SPLITS
from edge_lib.experiments.vlm_features import open_prefix_features, prefix_spec
from edge_lib.features.extract import write_features
from edge_lib.features.store import open_store
from edge_lib.models.vlm import VLM
from edge_lib.runs import Run
from edge_lib.sources import load_table

pytestmark = [pytest.mark.campaign, pytest.mark.usefixtures("fresh_accelerate")]

SIZES = {"train": 1000, "val": 40, "test": 150}
QA = (
    "qa.plain.width=32 qa.plain.heads=2 qa.plain.layers=2 qa.questions_per_image=1 "
    "qa.curriculum=null qa.train.batch_size=64 qa.train.max_steps=400 qa.train.eval_every=200 "
    "qa.train.checkpoint_every=200 qa.plain.lr=3e-3 "
)
CHATS = (
    "vlm.projector.tokens=2 vlm.language.lora.rank=4 vlm.max_length=400 vlm.stages.lora.lr=3e-3 "
    "vlm.stages.lora.batch_size=32 vlm.stages.lora.max_steps=200 vlm.stages.lora.eval_every=200 "
    "vlm.stages.lora.checkpoint_every=200 "
)
QUESTIONS = {
    name: getattr(broken_questions, f"write_{name}")
    for name in ("vqav2", "gqa", "csv", "jsonl", "saved")
}
CONVERSATIONS = {
    name: getattr(broken_chats, f"write_{name}")
    for name in ("llava", "messages", "parquet", "saved", "instructions")
}


@pytest.fixture
def make_config(aligner_folder, language_folder, tmp_path):
    """make_config(name, small, write, broken) -> a config, and the broken rows of each split."""

    def make(name, small, write, broken):
        folder, counts = tmp_path / str(broken), {}
        folder.mkdir()
        overrides = f"aligner.config=null aligner.folder={aligner_folder} {small}"
        overrides += f"data.cache_dir={folder}/cache "
        for seed, (split, size) in enumerate(SIZES.items()):
            good = [*broken_questions.questions(pictures(size, seed))]
            where, counts[split] = write(folder, split, good, broken)
            overrides += where
        if name == "vlm":
            overrides += f" vlm.language.model={language_folder}"
        return load_config(f"params/tiny/{name}.yaml", overrides), folder, counts

    return make


def named(table, *stores):
    """The names of the rows that a table and its stores have skipped."""
    skipped = {name for names in table.skipped.values() for name in names}
    for store in stores:
        with (store.folder / "skipped.csv").open(newline="") as file:
            skipped |= {row["id"] for row in csv.DictReader(file)}
    return skipped


@pytest.mark.parametrize("source", QUESTIONS)
def test_broken_questions_are_named_and_change_no_score(source, make_config, aligner_folder):
    scores = []
    for broken in (False, True):
        config, folder, counts = make_config("trm_qa", QA, QUESTIONS[source], broken)
        run = Run.create(config, "qa", folder / "run")
        scores.append(measure_decoder(config, "plain", aligner_folder, run.folder)["qa.plain.em"])
    print(f"{source}: {counts} questions broken, exact match {scores[1]:.3f}, else {scores[0]:.3f}")
    assert min(counts.values()) >= 0.01 * SIZES["train"]
    assert scores[0] > 0.4
    assert scores[1] == pytest.approx(scores[0], abs=0.07)
    for split, size in SIZES.items():
        table = load_table(config.data, f"qa-{split}")
        store = open_store(vision_spec(config, aligner_folder), "vision", table)
        usable, skipped = questions_by_image(table, store.valid).counts.sum(), named(table, store)
        assert (usable, len(skipped)) == (size, counts[split]), skipped


@pytest.mark.parametrize("source", CONVERSATIONS)
def test_broken_conversations_are_named_and_change_no_loss(source, make_config, aligner_folder):
    losses = []
    for broken in (False, True):
        config, folder, counts = make_config("vlm", CHATS, CONVERSATIONS[source], broken)
        check_experiment(config)
        spec = prefix_spec(config, aligner_folder)
        write_features(config.data, spec, CHAT_SPLITS)
        run = Run.create(config, "vlm", folder / "run")
        train_vlm(config, "lora", aligner_folder, run.folder)
        losses.append(run.history()["val.loss"].dropna().iloc[-1])
    print(f"{source}: {counts} broken, loss {losses[1]:.3f}, else {losses[0]:.3f}")
    assert min(counts.values()) >= 0.01 * SIZES["train"]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    chat, train = VLM.from_pretrained(run.checkpoints / "best").chat, config.vlm.stages["lora"]
    for split, size in SIZES.items():
        table = load_table(config.data, f"chat-{split}")
        features = open_prefix_features(config.vlm.prefix_sources, spec, table)
        conversations = open_tokenized(table, chat, config.data.cache_dir)
        usable = len(ChatBatches(conversations, features, train, 0).conversations)
        skipped = named(table)
        assert (usable, len(skipped)) == (size, counts[split]), skipped
