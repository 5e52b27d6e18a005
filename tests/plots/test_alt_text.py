"""Each figure has an alt text with its main numbers, and shows the numbers of its table."""

import numpy as np
import pandas as pd
from PIL import Image

from edge_lib import plots
from edge_lib.metrics.recall import COLUMNS

IMAGES = [Image.new("RGB", (4, 4))] * 3


def spread(columns: list[str], rows: list[tuple]) -> pd.DataFrame:
    """Two seeds for each row, 0.1 below and above its last value."""
    seeds = [(*row, value + 0.2 * seed - 0.1, seed) for *row, value in rows for seed in (0, 1)]
    return pd.DataFrame(seeds, columns=[*columns, "seed"])


def test_samples_alt_lists_captions():
    figure, _ = plots.samples(IMAGES[:2], ["a red three", "what colour?\nblue"])
    assert figure.alt == "2 images with captions: a red three; what colour? blue"


def test_loss_curve_alt_gives_first_and_last_values():
    steps = np.arange(1, 4)
    history = pd.DataFrame({"step": steps, "loss": 2.0, "val.audio_to_text.r1": steps / 4})
    figure, _ = plots.loss_curve(history)
    assert figure.alt == (
        "Training loss from 2.00 to 2.00 over 3 steps; validation R@1 ends at audio to text 0.75."
    )
    figure, _ = plots.loss_curve(history[["step", "loss"]])
    assert figure.alt == "Training loss from 2.00 to 2.00 over 3 steps."


def test_recall_by_dim_alt_gives_recall_at_the_full_dim():
    values = 0.4, 0.8, 20, "one right answer", 0.05
    rows = [("text", "vision", dim, k, dim / 100, *values) for dim in (8, 64) for k in (1, 5)]
    figure, _ = plots.recall_by_dim(pd.DataFrame(rows, columns=COLUMNS))
    assert figure.alt == "R@1 and R@5 at 8 and 64 dims; R@1 at 64: text to vision 0.64."


def test_similarity_heatmap_alt_gives_mean_cosines():
    figure, _ = plots.similarity_heatmap(
        np.eye(3) - 0.25, [*"abc"], [*"abc"], names=("text", "audio")
    )
    assert figure.alt == (
        "Heatmap of cosine similarity, 3 text rows by audio columns: "
        "mean 0.75 for pairs, -0.25 elsewhere."
    )


def test_tsne_alt_gives_share_of_nearest_pairs():
    same = np.random.default_rng(0).standard_normal((20, 4))
    figure, _ = plots.tsne({"vision": same, "audio": same})
    assert figure.alt == (
        "t-SNE of 20 rows in vision and audio; "
        "nearest across modalities, before t-SNE, is the same row: 100%."
    )


def test_retrieval_strip_alt_gives_ranks():
    similarity = np.array([[0.1, 0.9, 0.5], [0.4, 0.3, 0.2]])
    figure, _ = plots.retrieval_strip(["x", "y"], similarity, [1, 2], IMAGES.__getitem__, top=2)
    assert (
        figure.alt
        == "The top 2 images for each caption; the right one has rank 1 for “x” and 3 for “y”."
    )


def test_winoground_scores_alt_gives_scores_at_the_full_dim():
    columns = ["dim", "score", "value", "low", "high", "chance"]
    names = ("text", "image", "group")
    rows = [(dim, name, dim / 100, 0.0, 1.0, 0.25) for dim in (8, 64) for name in names]
    figure, _ = plots.winoground_scores(pd.DataFrame(rows, columns=columns))
    assert figure.alt == (
        "Winoground scores at 8 and 64 dims; at 64: text 0.64, image 0.64 and group 0.64."
    )


def test_audio_retrieval_shows_the_retrieved_image_of_misses():
    clips = [np.random.default_rng(0).standard_normal(16000)] * 2
    figure, table = plots.audio_retrieval(
        clips, IMAGES[:2], IMAGES[:2], ["a", "b"], ["a", "c"], [1, 7]
    )
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == [
        *("right, retrieved", "right, rank 7", "retrieved")
    ]
    assert table.to_dict("list") == {
        "caption": ["a", "b"],
        "retrieved_caption": ["a", "c"],
        "rank": [1, 7],
        "seconds": [1.0, 1.0],
    }
    assert figure.alt == (
        "Spectrograms of 2 spoken queries beside their right and retrieved images; "
        "the right image has rank 1 and 7."
    )


def test_fusion_bars_draw_means_over_seeds():
    rows = [("gated", "vision", 0.5), ("gated", "audio", 0.3), ("mean", "vision", 0.4)]
    recall = spread(["strategy", "inputs", "recall"], rows).assign(rows=20)
    figure, table = plots.fusion_bars(recall)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(sorted(heights), sorted(table["mean"]))
    np.testing.assert_allclose(table["mean"], [0.5, 0.3, 0.4])
    assert figure.alt == (
        "Mean R@1 by fusion strategy for the queries vision and audio; "
        "the best is gated with vision, 0.50."
    )


def test_gate_weights_summarises_trainings_conditions_and_modalities():
    rows = [("damaged", "clean", True, 0.6), ("plain", "clean", False, 0.5)]
    columns = ["training", "condition", "hit", "vision"]
    weights = spread(columns, rows)
    weights = weights.assign(audio=1 - weights.vision, row=7)
    figure, table = plots.gate_weights(weights)
    np.testing.assert_allclose(table["mean"], [0.6, 0.5, 0.4, 0.5])
    np.testing.assert_allclose(table["sd"], [0.2 / 2**0.5] * 4)
    assert table["recall"].tolist() == [1, 0, 1, 0]
    assert table["rows"].tolist() == [1] * 4
    assert [axes.get_title() for axes in figure.axes] == ["damaged", "plain"]
    assert figure.alt == (
        "Box plots of fusion weights; means: vision 0.60 (clean, damaged), vision 0.50 (clean, "
        "plain), audio 0.40 (clean, damaged) and audio 0.50 (clean, plain)."
    )


def test_training_curves_draw_loss_and_score_of_each_variant():
    history = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "val.em": [None, 0.5]})
    figure, table = plots.training_curves({"plain": history, "trm": history}, "val.em", "EM")
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines] == [[2.0, 1.0]] * 2
    assert [list(line.get_ydata()) for line in right.lines] == [[0.5]] * 2
    assert table.variant.unique().tolist() == ["plain", "trm"]
    assert figure.alt == (
        "Training loss and EM by step for plain and trm; "
        "the last val.em: 0.5 (plain) and 0.5 (trm)."
    )


def test_kind_scores_draw_values_with_intervals():
    scores = pd.DataFrame({"kind": ["sum", "count"] * 2, "variant": [*"aabb"]})
    scores = scores.assign(value=[0.2, 0.4, 0.6, 0.8])
    scores = scores.assign(low=scores.value - 0.1, high=scores.value + 0.1)
    figure, _ = plots.kind_scores(scores, "exact match")
    points = [list(bar.lines[0].get_xdata()) for bar in figure.axes[0].containers]
    assert points == [[0.2, 0.4], [0.6, 0.8]]
    assert figure.alt == "exact match of a and b for sum and count, with intervals."


def test_attention_steps_table_has_a_row_per_step_and_vector():
    maps = np.arange(12.0).reshape(2, 2, 3)
    figure, table = plots.attention_steps(maps, ["x", "y"])
    assert table.query("answer == 'y' and step == 2").attention.tolist() == [9, 10, 11]
    assert figure.alt == "Attention over 3 prefix vectors at 2 recursion steps, for x and y."


def test_sweep_figures_alt_names_variants():
    table = spread(["variant", "dim", "r1"], [("ours", 8, 0.5), ("theirs", 8, 0.4)])
    figure, _ = plots.variant_lines(table, "dim", "r1", ylabel="R@1")
    assert figure.alt == (
        "R@1 by dim for ours and theirs: mean over seeds, whiskers from lowest to highest."
    )
    figure, _ = plots.variant_dots(table, "variant", "r1", "dim", xlabel="R@1")
    assert figure.alt == "R@1 of ours and theirs, for 8: a dot per seed, a bar at the mean."
    table = table.rename(columns={"variant": "decoder"}).assign(setting=0, flops=[1, 1, 2, 2])
    figure, _ = plots.pareto(table, {"flops": "FLOPs"}, "r1", "EM")
    assert figure.alt == "EM against FLOPs for ours and theirs, with Pareto fronts."
    figure, _ = plots.stacked_bars(table, "dim", "decoder", "r1", "errors")
    assert figure.alt == "errors by dim, split into ours and theirs; in total 90% at 8."


def test_layer_heatmaps_show_both_measures_and_name_the_best_pair():
    sides = [("vision", "resnet", 0), ("vision", "resnet", "own")]
    others = [("text", "org/bert", 1), ("text", "mpnet", 2), ("text", "mpnet", "own")]
    names = [f"{key}_{side}" for side in "ab" for key in ("modality", "encoder", "layer")]
    table = pd.DataFrame([(*a, *b) for a in sides for b in others], columns=names)
    table = table.assign(rows=1000, chance=0.01, knn=np.arange(6) / 10, unbiased_cka=0.5)
    figure, shown = plots.layer_heatmaps(table)
    assert shown is table
    assert figure.alt == (
        "Heatmaps of CKA and mutual neighbours of vision and text layers on 1,000 rows; most "
        "neighbours are shared by layer own of resnet and layer own of mpnet: 0.50, by chance "
        "0.010."
    )
    cka, knn = figure.axes[:2]
    labels = [label.get_text() for label in knn.get_xticklabels()]
    assert labels == ["bert 1", "mpnet 2", "mpnet own"]
    assert [label.get_text() for label in cka.get_yticklabels()] == ["0", "own"]
    values = knn.collections[0].get_array().reshape(2, 3)
    np.testing.assert_allclose(values, [[0, 0.1, 0.2], [0.3, 0.4, 0.5]])


def test_agreement_scores_give_rank_correlations():
    table = pd.DataFrame({"layer_a": [0, 0, 1, 1], "modality_a": "audio", "r1": [1, 2, 3, 4]})
    table = table.assign(knn=[0.1, 0.2, 0.4, 0.3], unbiased_cka=[4, 3, 2, 1])
    figure, _ = plots.agreement_scores(table, "r1", "R@1")
    assert figure.alt == (
        "R@1 of 4 pairs of layers by agreement before training; Spearman's rank correlation: "
        "linear CKA, unbiased -1.00 and mutual nearest neighbours 0.80."
    )
    points = figure.axes[1].lines[1].get_xydata()
    np.testing.assert_allclose(points, [[0.4, 3], [0.3, 4]])
