"""Heads trained on layers in memory, against those trained from feature stores."""

import numpy as np
import torch

from edge_lib.experiments.align import embed_saved, item_labels, train_aligner
from edge_lib.experiments.layer_recall import LayerFeatures, recall_of_layers
from edge_lib.features.extract import write_features
from edge_lib.features.store import open_stores
from edge_lib.metrics.recall import recall_table
from edge_lib.runs import Run
from edge_lib.sources import load_table


def test_recall_of_layers_equals_that_of_stored_layers(small_align, tmp_path):
    keys = "vision.pooler=pooled features.dtype=float32 train.epochs=4 train.eval_every=1000 "
    keys += "loss.dims=[16] evaluate.ks=[1,5] "
    config = small_align(
        f"{keys} compare.candidates.vision.layers=[1] compare.candidates.text.layers=[-1]"
    )
    recall = recall_of_layers(config, Run.create(config, "x", tmp_path / "memory"))
    stored = small_align(f"{keys} vision.layer=1 text.layer=6")
    run = Run.create(stored, "x", tmp_path / "stores")
    write_features(stored.data, stored.feature_spec)
    train_aligner(stored, run.folder)
    test = load_table(stored.data, "test")
    embeddings, rows = embed_saved(run.checkpoints / "best", stored.feature_spec, test)
    labels = item_labels(test, open_stores(stored.feature_spec, test))
    expected = recall_table(embeddings, rows, [16], [1, 5], test.groups, labels=labels)
    assert recall.recall.tolist() == expected.recall.tolist()
    assert set(zip(recall.layer_a, recall.layer_b, strict=True)) == {(1, 6)}


def test_trained_pairs_are_kept(small_align, tmp_path, capsys):
    config = small_align(
        "vision.pooler=pooled loss.dims=[16] compare.candidates.vision.layers=[0,2] "
        "compare.candidates.text.layers=[1]"
    )
    run = Run.create(config, "x", tmp_path / "run")
    first = recall_of_layers(config, run)
    capsys.readouterr()
    again = recall_of_layers(config, run)
    assert capsys.readouterr().out.count("resumed from") == 2
    assert first.equals(again)


def test_layer_features_leave_out_items_without_a_vector():
    vectors = torch.tensor([[1.0, 2], [torch.nan, torch.nan], [3, 4]])
    features = LayerFeatures(vectors)
    assert features.valid.tolist() == [True, False, True]
    assert features.widths == (0, 2)
    output = features.gather(np.array([2, 0]))
    assert output.pooled.tolist() == [[3, 4], [1, 2]]
