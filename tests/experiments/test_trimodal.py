"""Three modalities: alignment with missing items, and fusions on frozen heads."""

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from edge_lib.data.alignment_batches import AlignmentBatches, AlternateBatches
from edge_lib.data.damage import DamagedBatches
from edge_lib.experiments.align import (
    AlignmentTask,
    embed_saved,
    embed_table,
    train_aligner,
)
from edge_lib.experiments.trimodal import (
    FusionTask,
    _presence,
    damage_conditions,
    embed_rows,
    fused_recall,
    fusion_tables,
    gate_shifts,
    gate_weights,
    train_fusions,
    training_damages,
    training_features,
)
from edge_lib.features.extract import extract_features, write_features
from edge_lib.features.online import open_features
from edge_lib.features.store import open_stores
from edge_lib.models import Aligner, Fuser
from edge_lib.nn.losses import info_nce
from edge_lib.runs import Run
from edge_lib.sources import load_table
from edge_lib.training.checkpoints import newest_checkpoint
from edge_lib.training.launch import launch
from edge_lib.training.progress import Reporter

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def config(small_trimodal):
    config = small_trimodal("features.dtype=float32")
    write_features(config.data, config.feature_spec)
    return config


def untrained(config, seed=0):
    torch.manual_seed(seed)
    stores = stores_of(config, "val")
    widths = {name: store.widths for name, store in stores.items()}
    return Aligner(config.modalities, config.loss.dims, widths)


def first_batch(config, split="train"):
    table = load_table(config.data, split)
    features = open_features(config.feature_spec, table)
    options = config.seed, config.data.missing, config.data.hard_negatives
    return AlignmentBatches(table, features, config.train, *options)[0]


def stores_of(config, split):
    return open_stores(config.feature_spec, load_table(config.data, split))


# --- alignment -------------------------------------------------------------------------------


def test_loss_is_the_mean_over_pairs_of_rows_with_both_items(config):
    aligner, batch = untrained(config).eval(), first_batch(config)
    task = AlignmentTask(aligner, config.loss, config.pairs, config.seed)
    torch.manual_seed(1)
    batch.present = {name: torch.rand(16) < 0.7 for name in batch.present}
    embedded = {name: aligner.heads[name](batch.features[name])[1] for name in batch.features}
    expected = 0
    for a, b in combinations(embedded, 2):
        kept = batch.present[a] & batch.present[b]
        for d in config.loss.dims:
            x, y = embedded[a][kept, :d], embedded[b][kept, :d]
            expected = expected + info_nce(x, y, task.loss.logit_scale())
    torch.testing.assert_close(task(batch), expected / 3)


def test_gradients_reach_the_heads_of_the_pairs_in_the_loss(small_trimodal, config):
    one_pair = small_trimodal("features.dtype=float32 loss.pairs=[[vision,text]]")
    batch = first_batch(config)
    for chosen, trained in ((config, {"vision", "audio", "text"}), (one_pair, {"vision", "text"})):
        aligner = untrained(chosen)
        AlignmentTask(aligner, chosen.loss, chosen.pairs, chosen.seed)(batch).backward()
        with_gradient = {
            name.split(".")[1]
            for name, p in aligner.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0
        }
        assert with_gradient == trained
    encoder = untrained(config).encoder("audio")
    assert not any(p.requires_grad for p in encoder.parameters())


def test_aligner_embeds_raw_clips_like_stored_features(config):
    aligner, table = untrained(config).eval(), load_table(config.data, "val")
    embeddings, rows = embed_table(aligner, table, stores_of(config, "val"), batch_size=5)
    embedded = aligner.embed("audio", table.clips(range(6)))
    torch.testing.assert_close(embedded, embeddings["audio"][:6], atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(rows["audio"], np.arange(len(table)))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "missing", ["data.missing.audio=1.0", "data.missing.audio=0.5 data.missing.vision=0.3"]
)
def test_training_allows_batches_without_a_modality(small_trimodal, tmp_path, processes, missing):
    config = small_trimodal(f"{missing} train.epochs=1 launch.num_processes={processes}")
    extract_features(config.data, config.feature_spec, **config.launch.model_dump())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "logs").mkdir()
    results = launch(train_aligner, config, tmp_path, **config.launch.model_dump())
    assert results[0]["steps"] > 0
    trained = Aligner.from_pretrained(tmp_path / "checkpoints" / "best")
    before = untrained(config, config.seed).state_dict()
    changed = {
        name.split(".")[1]
        for name, value in trained.state_dict().items()
        if name.endswith("project.weight")
        # weight decay alone shrinks them by 5e-5 in each step
        and (value / before[name]).std() > 1e-3
    }
    assert changed == ({"vision", "text"} if "1.0" in missing else {"vision", "audio", "text"})


def test_extraction_counts_clips_longer_than_the_window(small_trimodal):
    config = small_trimodal("features.shard_rows=7")
    counts = write_features(config.data, config.feature_spec)["test/audio"]
    clips = load_table(config.data, "test").clips(range(16))
    assert counts["truncated"] == sum(len(clip) > 2 * 16000 for clip in clips) > 0
    assert counts["skipped"] == 0


# --- fusion ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task(config):
    return new_task(config)


@pytest.fixture(scope="module")
def fuser(task):
    return task.fuser.eval()


def new_task(config, seed=0):
    aligner = untrained(config)
    torch.manual_seed(seed)
    return FusionTask(Fuser(aligner, config.fusion), config.loss, seed)


def test_fusion_training_changes_fusions_alone(config, task):
    task.train()
    before = {name: value.clone() for name, value in task.fuser.aligner.state_dict().items()}
    task(first_batch(config, "degraded-train")).backward()
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    assert all(name.startswith(("fuser.fusions.", "losses.")) for name in trained)
    assert all(p.grad is None for p in task.fuser.aligner.parameters())
    assert not task.fuser.aligner.training
    for part in (task.fuser.fusions, task.losses):
        names = {n.split(".")[0] for n, p in part.named_parameters() if p.grad is not None}
        assert names == {"concat", "cross_attention", "gated"}
    for name, value in task.fuser.aligner.state_dict().items():
        assert torch.equal(value, before[name])
    task.zero_grad()


def fusion_batch(config):
    """A batch in which each modality is absent from other rows, and which rows can be used."""
    batch = first_batch(config)
    batch.present = {
        "vision": torch.arange(16) % 2 == 0,
        "audio": torch.arange(16) % 4 == 1,
        "text": torch.arange(16) != 0,
    }
    usable = (batch.present["vision"] | batch.present["audio"]) & batch.present["text"]
    return batch, usable


def expected_loss(task, batch, usable, dims):
    """The sum over fusions and dims of InfoNCE on the usable rows."""
    heads = task.fuser.aligner.heads
    sequences = {name: heads[name](batch.features[name])[0] for name in ("vision", "audio")}
    target = heads["text"](batch.features["text"])[1]
    total = 0
    for name, fusion in task.fuser.fusions.items():
        fused = fusion(sequences, batch.present).embedding
        for d in dims:
            scale = task.losses[name].logit_scale()
            total = total + info_nce(fused[usable, :d], target[usable, :d], scale)
    return total


def test_fusion_loss_uses_rows_with_target_and_any_input(config, task):
    task.eval()
    batch, usable = fusion_batch(config)
    torch.testing.assert_close(task(batch), expected_loss(task, batch, usable, config.loss.dims))


def test_fusion_loss_samples_a_single_dim_if_configured(config, small_trimodal):
    sampled = new_task(small_trimodal("features.dtype=float32 loss.sample_single_dim=true")).eval()
    batch, usable = fusion_batch(config)
    single = [expected_loss(sampled, batch, usable, [d]) for d in config.loss.dims]
    drawn = set()
    for batch.step in range(8):
        loss = sampled(batch)
        (number,) = [n for n, value in enumerate(single) if torch.isclose(loss, value)]
        assert sampled(batch) == loss  # a function of the step
        drawn.add(number)
    assert drawn == {0, 1}


def test_modality_dropout_leaves_one_of_two_modalities(small_trimodal):
    task = new_task(small_trimodal("features.dtype=float32 fusion.modality_dropout=0.99"))
    present = {"vision": torch.ones(400, dtype=torch.bool), "audio": torch.arange(400) < 200}
    dropped = task.train()._drop_modalities(present)
    both = dropped["vision"].int() + dropped["audio"].int()
    assert set(both[:200].tolist()) <= {1, 2}
    assert (both[:200] == 1).float().mean() > 0.9
    assert 0.3 < dropped["vision"][:200].float().mean() < 0.7
    assert not dropped["audio"][200:].any()
    assert task.eval()._drop_modalities(present) is present


def test_fuser_loads_with_the_same_outputs(config, fuser, tmp_path, rename_keys):
    fuser.save_pretrained(tmp_path)
    metadata = json.loads((tmp_path / "fuser.json").read_text())
    sizes = {"width", "num_latents", "num_layers", "num_heads"}
    assert metadata.keys() == {"strategies", "modalities", "target", "sha256"} | sizes
    rename_keys()
    loaded = Fuser.from_pretrained(tmp_path)
    assert not loaded.training
    assert all(torch.equal(v, loaded.state_dict()[n]) for n, v in fuser.state_dict().items())
    batch, _ = fusion_batch(config)
    names = ("vision", "audio")
    sequences = fuser.sequences({name: batch.features[name] for name in names})
    outputs = [model(sequences, batch.present) for model in (fuser, loaded)]
    for strategy, fused in outputs[0].items():
        assert torch.equal(fused.embedding, outputs[1][strategy].embedding)
        assert torch.equal(fused.prefix, outputs[1][strategy].prefix)


def test_fuser_selects_one_strategy(config, fuser):
    state = torch.get_rng_state()
    gated = fuser.select("gated")
    assert torch.equal(torch.get_rng_state(), state)
    assert gated.fusions["gated"] is fuser.fusions["gated"]
    assert list(gated.fusions) == gated.config.strategies == ["gated"]
    assert len(fuser.fusions) == 3


def test_fuser_paths_are_relative_to_the_working_directory(fuser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fuser.save_pretrained("fuser")
    assert (tmp_path / "fuser/aligner/aligner.json").is_file()
    loaded = Fuser.from_pretrained("fuser")
    assert all(torch.equal(v, loaded.state_dict()[n]) for n, v in fuser.state_dict().items())


def test_fusion_tables_add_the_degraded_split_where_one_exists(config, small_align):
    names = [table.name for table in fusion_tables(config.data, "test")]
    assert names == ["scenes test", "scenes degraded-test"]
    assert [table.name for table in fusion_tables(small_align().data, "test")] == ["scenes test"]


def test_damage_null_trains_fusions_on_whole_rows_alone(small_trimodal, config):
    config = small_trimodal("features.dtype=float32 fusion.damage=null")
    ((table, features),) = training_features(config)
    assert table.name == "scenes train"
    assert {name: store.folder for name, store in features.items()} == {
        name: store.folder for name, store in stores_of(config, "train").items()
    }


def test_damage_trains_fusions_with_each_and_all_inputs_degraded_as_well(config):
    whole, degraded = stores_of(config, "train"), stores_of(config, "degraded-train")
    sets = training_features(config)
    assert [len(table) for table, _ in sets] == [96, 32, 32, 32]
    sources = [
        [features[name].folder == degraded[name].folder for name in ("vision", "audio")]
        for _, features in sets[1:]
    ]
    assert sources == [[True, False], [False, True], [True, True]]
    batch = AlignmentBatches(*sets[1], config.train, 0)[0]
    for name, store in (("vision", degraded["vision"]), ("audio", whole["audio"])):
        assert torch.equal(batch.features[name].pooled, store.gather(batch.rows).pooled)


def test_each_fourth_batch_is_of_another_set_in_turn_and_keeps_its_step(config):
    features = stores_of(config, "degraded-train")
    table = load_table(config.data, "degraded-train")
    main, *others = [AlignmentBatches(table, features, config.train, seed) for seed in range(3)]
    alternate = AlternateBatches(main, others, 4)
    assert alternate.steps_per_epoch == main.steps_per_epoch
    steps = {3: (others[0], 0), 7: (others[1], 0), 11: (others[0], 1), 15: (others[1], 1)}
    for step in range(16):
        batches, own = steps.get(step, (main, step))
        batch = alternate[step]
        np.testing.assert_array_equal(batch.rows, batches[own].rows)
        assert batch.step == step
        assert alternate.ids(step) == batches.ids(own)


def test_alternate_batches_without_other_sets_are_those_of_the_main_one(config):
    table = load_table(config.data, "train")
    main = AlignmentBatches(table, stores_of(config, "train"), config.train, 0)
    alternate = AlternateBatches(main, [], 4)
    for step in (2, 3, 7):
        np.testing.assert_array_equal(alternate[step].rows, main[step].rows)


def test_damage_is_of_the_fused_modalities_of_a_share_of_whole_rows(small_trimodal, config):
    config = small_trimodal("features.dtype=float32 fusion.damage.share=0.5")
    table, features = training_features(config)[0]
    batches = AlignmentBatches(table, features, config.train, 0)
    plain = batches[0]
    damaged = DamagedBatches(batches, training_damages(config.fusion, features))[0]
    same = {
        name: (damaged.features[name].pooled == plain.features[name].pooled).all(1)
        for name in plain.features
    }
    assert same["text"].all()
    assert 0 < same["vision"].sum() < 16
    assert 0 < same["audio"].sum() < 16
    assert not torch.equal(same["vision"], same["audio"])


def test_damage_conditions_damage_one_modality_or_take_it_from_the_degraded_split(config):
    whole, degraded = stores_of(config, "test"), stores_of(config, "degraded-test")
    conditions = damage_conditions(config.fusion, whole, degraded)
    singles = ["vision features", "audio features", "vision input", "audio input"]
    assert list(conditions) == ["whole", *singles, "all inputs"]
    items = np.arange(5)
    for condition, stores in conditions.items():
        changed = {
            name
            for name, store in whole.items()
            if not torch.equal(stores[name].gather(items).pooled, store.gather(items).pooled)
        }
        expected = {"vision", "audio"} if condition == "all inputs" else {condition.split()[0]}
        assert changed == expected - {"whole"}
    again = damage_conditions(config.fusion, whole, degraded)["audio features"]["audio"]
    features = conditions["audio features"]["audio"].gather(items)
    assert torch.equal(again.gather(items).pooled, features.pooled)
    undegraded = damage_conditions(config.fusion, whole)
    assert list(undegraded) == ["whole", "vision features", "audio features"]


def test_recall_of_heads_is_that_of_the_aligner(config, fuser):
    table = fusion_tables(config.data, "test")[-1]
    stores = stores_of(config, "degraded-test")
    recall = fused_recall(fuser, table, stores, [("vision",), ("vision", "audio")])
    assert set(recall.strategy) == {"concat", "cross_attention", "gated", "heads"}
    embeddings, _ = embed_table(fuser.aligner, table, stores)
    unit = [torch.nn.functional.normalize(embeddings[n], dim=1) for n in ("vision", "text")]
    expected = ((unit[0] @ unit[1].T).argmax(1) == torch.arange(16)).float().mean()
    (heads,) = recall[recall.strategy == "heads"].itertuples()
    assert (heads.inputs, heads.rows) == ("vision", 16)
    assert heads.recall == pytest.approx(float(expected))


def test_rows_that_lack_a_modality_are_left_out_of_fusion(config, fuser):
    stores = stores_of(config, "degraded-test")
    stores["audio"].valid = stores["audio"].valid.copy()
    stores["audio"].valid[[0, 5]] = False
    table = fusion_tables(config.data, "test")[-1]
    sequences, target, rows = embed_rows(fuser, table, stores, batch_size=3)
    assert rows.tolist() == [r for r in range(16) if r not in (0, 5)]
    whole, all_targets, _ = embed_rows(fuser, table, stores_of(config, "degraded-test"))
    torch.testing.assert_close(sequences["audio"], whole["audio"][rows])
    torch.testing.assert_close(target, all_targets[rows])


def test_gate_weights_sum_to_one_and_hits_give_the_recall_of_the_gated_fusion(config, fuser):
    table, stores = fusion_tables(config.data, "test")[-1], stores_of(config, "degraded-test")
    conditions = {"a": stores, "b": stores_of(config, "test")}
    weights = gate_weights({("x", 0): fuser, ("x", 1): fuser}, table, conditions)
    assert len(weights) == 2 * 2 * 16
    np.testing.assert_allclose(weights.vision + weights.audio, 1, atol=1e-5)
    recall = fused_recall(fuser, table, stores, [("vision", "audio")])
    (gated,) = recall[recall.strategy == "gated"].recall
    hits = weights[weights.condition == "a"].groupby("seed").hit.mean()
    assert hits.tolist() == [gated, gated]


def test_gate_shifts_are_differences_seed_by_seed():
    rows = [
        ("with damage", 0, "whole", 0.6, 1.0),
        ("with damage", 1, "whole", 0.5, 0.8),
        ("without", 0, "whole", 0.5, 0.9),
        ("without", 1, "whole", 0.5, 0.9),
        ("with damage", 0, "audio input", 0.8, 0.7),
        ("with damage", 1, "audio input", 0.9, 0.8),
        ("without", 0, "audio input", 0.5, 0.5),
        ("without", 1, "audio input", 0.5, 0.4),
    ]
    weights = pd.DataFrame(rows, columns=["training", "seed", "condition", "vision", "hit"])
    shifts = gate_shifts(weights.assign(row=0, audio=1 - weights.vision))
    assert shifts.index.tolist() == ["whole", "audio input"]
    np.testing.assert_allclose(shifts.r1, [0.9, 0.75])
    np.testing.assert_allclose(shifts.gain, [0, 0.3])
    np.testing.assert_allclose(shifts.gain_sd, [0.1 * 2**0.5, 0.1 * 2**0.5])
    assert np.isnan(shifts.fall["whole"])
    assert shifts.fall["audio input"] == pytest.approx(0.3)
    assert shifts.fall_sd["audio input"] == pytest.approx(0.1 * 2**0.5)


def test_gate_shifts_of_one_seed_have_no_spread():
    rows = [
        ("with damage", 0, "whole", 0.6, 1.0),
        ("without", 0, "whole", 0.5, 0.9),
        ("with damage", 0, "vision features", 0.3, 0.8),
        ("without", 0, "vision features", 0.5, 0.5),
    ]
    weights = pd.DataFrame(rows, columns=["training", "seed", "condition", "vision", "hit"])
    (shift,) = gate_shifts(weights.assign(row=0)).dropna(subset=["fall"]).itertuples()
    assert (shift.Index, shift.fall, shift.gain) == (
        "vision features",
        pytest.approx(0.3),
        pytest.approx(0.3),
    )
    assert np.isnan([shift.fall_sd, shift.gain_sd]).all()


def test_presence_is_on_the_device_of_the_sequences():
    sequences = {name: torch.empty(3, 2, 4, device="meta") for name in ("vision", "audio")}
    assert {mask.device.type for mask in _presence(sequences, ["audio"]).values()} == {"meta"}
    sequences = {name: torch.empty(3, 2, 4) for name in sequences}
    assert {name: mask.tolist() for name, mask in _presence(sequences, ["audio"]).items()} == {
        "vision": [False] * 3,
        "audio": [True] * 3,
    }


def test_two_processes_train_fusions_like_one(small_trimodal, tmp_path, config):
    trained = []
    for processes in (1, 2):
        config = small_trimodal(
            f"launch.num_processes={processes} features.dtype=float32 fusion.modality_dropout=0 "
            "fusion.damage.share=0.5 fusion.train.max_steps=4"
        )
        folder = tmp_path / str(processes)
        for name in ("aligner", "checkpoints", "logs"):
            (folder / name).mkdir(parents=True)
        untrained(config).save_pretrained(folder / "aligner")
        arguments = config, folder / "aligner", {7: folder}
        launch(train_fusions, *arguments, **config.launch.model_dump())
        trained.append(Fuser.from_pretrained(folder / "checkpoints" / "best"))
    one, two = (fuser.state_dict() for fuser in trained)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-3)


def test_fusions_with_damage_resume_exactly(small_trimodal, config, tmp_path, monkeypatch):
    """A training that stops after a checkpoint, and goes on."""
    config = small_trimodal("features.dtype=float32 fusion.train.max_steps=6")
    untrained(config).save_pretrained(tmp_path / "aligner")
    runs = [Run.create(config, "x", tmp_path / name) for name in ("whole", "halves")]
    whole, halves = [(config, tmp_path / "aligner", {7: run.folder}) for run in runs]
    train_fusions(*whole)

    def report_and_stop(self, *values, report=Reporter.step):
        report(self, *values)
        if self.progress.step == 5:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", report_and_stop)
        with pytest.raises(InterruptedError):
            train_fusions(*halves)
    assert newest_checkpoint(runs[1].checkpoints).name == "step-00000004"
    train_fusions(*halves)
    one, two = (load_file(newest_checkpoint(run.checkpoints) / WEIGHTS) for run in runs)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_embed_saved_is_embed_table_of_the_loaded_aligner(config, tmp_path):
    aligner, table = untrained(config).eval(), load_table(config.data, "test")
    aligner.save_pretrained(tmp_path / "best")
    one, _ = embed_saved(tmp_path / "best", config.feature_spec, table)
    two, _ = embed_table(aligner, table, stores_of(config, "test"))
    assert all(torch.equal(one[name], two[name]) for name in config.modalities)
