"""Three modalities: trained whatever is missing, and fused on heads that stay as they are."""

from itertools import combinations

import numpy as np
import pytest
import torch

from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.experiments.align import embed_split, embed_table, train_aligner
from edge_lib.experiments.trimodal import (
    embed_rows,
    fused_recall,
    fusion_table,
    gate_weights,
    train_fusions,
)
from edge_lib.features.extract import extract_features
from edge_lib.features.online import open_features
from edge_lib.features.store import open_store
from edge_lib.models import Aligner, Fuser
from edge_lib.nn.losses import info_nce
from edge_lib.sources import load_table
from edge_lib.training.launch import launch


@pytest.fixture(scope="module")
def config(small_trimodal):
    config = small_trimodal("features.dtype=float32")
    extract_features(config)
    return config


def widths(config):
    table = load_table(config.data, "val")
    return {name: open_store(config, name, table).widths for name in config.modalities}


def new_aligner(config, seed=0):
    torch.manual_seed(seed)
    return Aligner(config, widths(config))


def first_batch(config, split="train"):
    table = load_table(config.data, split)
    return AlignmentBatches(table, open_features(config, table), config)[0]


def stores_of(config, split):
    table = load_table(config.data, split)
    return {name: open_store(config, name, table) for name in config.modalities}


# --- alignment -------------------------------------------------------------------------------


def test_loss_is_the_mean_over_pairs_of_the_rows_that_have_both(config, small_trimodal):
    aligner, batch = new_aligner(config).eval(), first_batch(config)
    torch.manual_seed(1)
    batch.present = {name: torch.rand(16) < 0.7 for name in batch.present}
    embedded = {name: aligner.heads[name](batch.features[name])[1] for name in batch.features}
    expected = 0
    for a, b in combinations(embedded, 2):
        kept = batch.present[a] & batch.present[b]
        for d in config.loss.dims:
            x, y = embedded[a][kept, :d], embedded[b][kept, :d]
            expected = expected + info_nce(x, y, aligner.logit_scale())
    torch.testing.assert_close(aligner(batch), expected / 3)


def test_every_head_learns_and_a_pair_left_out_teaches_nobody(small_trimodal, config):
    only = small_trimodal("features.dtype=float32 loss.pairs=[[vision,text]]")
    batch = first_batch(config)
    for chosen, learning in ((config, {"vision", "audio", "text"}), (only, {"vision", "text"})):
        aligner = new_aligner(chosen)
        aligner(batch).backward()
        moved = {
            name.split(".")[1]
            for name, p in aligner.named_parameters()
            if name.startswith("heads.") and p.grad is not None and p.grad.abs().sum() > 0
        }
        assert moved == learning
    encoder = new_aligner(config)._encoders["audio"]
    assert not any(p.requires_grad for p in encoder.parameters())


def test_raw_clips_and_the_store_give_the_same_embeddings(config):
    aligner, table = new_aligner(config).eval(), load_table(config.data, "val")
    embeddings, rows = embed_table(aligner, table, stores_of(config, "val"), batch_size=5)
    found = aligner.embed("audio", table.clips(range(6)))
    torch.testing.assert_close(found, embeddings["audio"][:6], atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(rows["audio"], np.arange(len(table)))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "missing", ["data.missing.audio=1.0", "data.missing.audio=0.5 data.missing.vision=0.3"]
)
def test_trains_though_whole_batches_lack_a_modality(small_trimodal, tmp_path, processes, missing):
    config = small_trimodal(f"{missing} train.epochs=1 launch.num_processes={processes}")
    launch(extract_features, config, **config.launch.model_dump())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "logs").mkdir()
    results = launch(train_aligner, config, tmp_path, **config.launch.model_dump())
    assert results[0]["steps"] > 0
    trained = Aligner.from_pretrained(tmp_path / "checkpoints" / "best")
    before = new_aligner(config, config.seed).state_dict()
    changed = {
        name.split(".")[1]
        for name, value in trained.state_dict().items()
        if name.startswith("heads.")
        and name.endswith("project.weight")
        # weight decay alone shrinks by 5e-5 a step
        and (value / before[name]).std() > 1e-3
    }
    assert changed == ({"vision", "text"} if "1.0" in missing else {"vision", "audio", "text"})


def test_clips_over_the_window_are_counted(small_trimodal):
    config = small_trimodal("features.shard_rows=7")
    counts = extract_features(config)["test/audio"]
    clips = load_table(config.data, "test").clips(range(16))
    assert counts["truncated"] == sum(len(clip) > 2 * 16000 for clip in clips) > 0
    assert counts["skipped"] == 0


# --- fusion ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuser(config):
    torch.manual_seed(0)
    return Fuser(new_aligner(config), config)


def test_only_the_fusions_learn(config, fuser):
    fuser.train()
    before = {name: value.clone() for name, value in fuser.aligner.state_dict().items()}
    fuser(first_batch(config, "degraded-train")).backward()
    trained = {name for name, p in fuser.named_parameters() if p.requires_grad}
    assert all(name.startswith(("fusions.", "logit_scales.")) for name in trained)
    assert all(p.grad is None for p in fuser.aligner.parameters())
    assert not fuser.aligner.training
    learning = {n.split(".")[1] for n, p in fuser.named_parameters() if p.grad is not None}
    assert learning == {"concat", "cross_attention", "gated"}
    for name, value in fuser.aligner.state_dict().items():
        assert torch.equal(value, before[name])
    fuser.zero_grad()


def test_fused_loss_counts_rows_with_text_and_anything_to_fuse(config, fuser):
    fuser.eval()
    batch = first_batch(config)
    batch.present = {
        "vision": torch.arange(16) % 2 == 0,
        "audio": torch.arange(16) % 4 == 1,
        "text": torch.arange(16) != 0,
    }
    usable = (batch.present["vision"] | batch.present["audio"]) & batch.present["text"]
    sequences = {n: fuser.aligner.heads[n](batch.features[n])[0] for n in ("vision", "audio")}
    target = fuser.aligner.heads["text"](batch.features["text"])[1]
    expected = 0
    for name, fusion in fuser.fusions.items():
        fused = fusion(sequences, batch.present).embedding
        for d in config.loss.dims:
            scale = fuser.logit_scales[name]()
            expected = expected + info_nce(fused[usable, :d], target[usable, :d], scale)
    torch.testing.assert_close(fuser(batch), expected)


def test_dropout_leaves_one_modality_and_never_none(small_trimodal, config):
    torch.manual_seed(0)
    fuser = Fuser(new_aligner(config), small_trimodal("fusion.modality_dropout=0.99"))
    present = {"vision": torch.ones(400, dtype=torch.bool), "audio": torch.arange(400) < 200}
    dropped = fuser.train()._drop(present)
    both = dropped["vision"].int() + dropped["audio"].int()
    assert set(both[:200].tolist()) <= {1, 2}
    assert (both[:200] == 1).float().mean() > 0.9
    assert 0.3 < dropped["vision"][:200].float().mean() < 0.7
    assert not dropped["audio"][200:].any()
    assert fuser.eval()._drop(present) is present


def test_fusions_are_saved_without_the_aligner(config, fuser, tmp_path):
    fuser.save_pretrained(tmp_path)
    other = Fuser.from_pretrained(tmp_path, new_aligner(config), config)
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in fuser.state_dict().items())
    assert not other.training
    assert (tmp_path / "fusions.safetensors").stat().st_size < 300_000


def test_fusion_is_judged_on_damaged_rows_where_there_are_any(config, small_align):
    assert fusion_table(config, "test").name == "scenes degraded-test"
    assert fusion_table(small_align(), "test").name == "scenes test"


def test_recall_of_heads_is_that_of_the_aligner(config, fuser):
    fuser.eval()
    table = fusion_table(config, "test")
    stores = stores_of(config, "degraded-test")
    recall = fused_recall(fuser, table, stores, [("vision",), ("vision", "audio")])
    assert set(recall.strategy) == {"concat", "cross_attention", "gated", "heads"}
    embeddings, _ = embed_table(fuser.aligner, table, stores)
    unit = [torch.nn.functional.normalize(embeddings[n], dim=1) for n in ("vision", "text")]
    expected = ((unit[0] @ unit[1].T).argmax(1) == torch.arange(16)).float().mean()
    (heads,) = recall[recall.strategy == "heads"].itertuples()
    assert (heads.inputs, heads.rows) == ("vision", 16)
    assert heads.recall == pytest.approx(float(expected))


def test_rows_that_lack_something_are_left_out_of_fusion(config, fuser):
    stores = stores_of(config, "degraded-test")
    stores["audio"].valid = stores["audio"].valid.copy()
    stores["audio"].valid[[0, 5]] = False
    table = fusion_table(config, "test")
    sequences, target, rows = embed_rows(fuser, table, stores, batch_size=3)
    assert rows.tolist() == [r for r in range(16) if r not in (0, 5)]
    whole, all_targets, _ = embed_rows(fuser, table, stores_of(config, "degraded-test"))
    torch.testing.assert_close(sequences["audio"], whole["audio"][rows])
    torch.testing.assert_close(target, all_targets[rows])


def test_gate_weights_say_which_row_and_condition(config, fuser):
    stores = stores_of(config, "degraded-test")
    weights = gate_weights(fuser, fusion_table(config, "test"), {"a": stores, "b": stores})
    sums = weights.groupby(["condition", "row"]).weight.sum()
    assert len(sums) == 32
    np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_two_processes_fuse_like_one(small_trimodal, tmp_path, config):
    found = []
    for processes in (1, 2):
        config = small_trimodal(
            f"launch.num_processes={processes} features.dtype=float32 fusion.modality_dropout=0 "
            "fusion.train.max_steps=2"
        )
        folder = tmp_path / str(processes)
        for name in ("aligner", "checkpoints", "logs"):
            (folder / name).mkdir(parents=True)
        new_aligner(config).save_pretrained(folder / "aligner")
        arguments = config, folder / "aligner", {7: folder}
        launch(train_fusions, *arguments, **config.launch.model_dump())
        best = Aligner.from_pretrained(folder / "aligner")
        found.append(Fuser.from_pretrained(folder / "checkpoints" / "best", best, config))
    one, two = (fuser.state_dict() for fuser in found)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-3)


def test_embed_split_is_embed_table_of_the_saved_aligner(config, tmp_path):
    aligner, table = new_aligner(config).eval(), load_table(config.data, "test")
    aligner.save_pretrained(tmp_path / "best")
    one, _ = embed_split(config, tmp_path / "best", table)
    two, _ = embed_table(aligner, table, stores_of(config, "test"))
    assert all(torch.equal(one[name], two[name]) for name in config.modalities)
