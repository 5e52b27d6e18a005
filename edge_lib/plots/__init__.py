"""Figures of results: each function returns a figure and the table of the numbers in it."""

from edge_lib.plots.ablation import (
    compared_recall,
    pareto,
    stacked_bars,
    variant_dots,
    variant_lines,
)
from edge_lib.plots.bench import cost_ratios
from edge_lib.plots.fusion import fusion_bars, gate_weights
from edge_lib.plots.layers import agreement_scores, layer_heatmaps
from edge_lib.plots.map import explore_map
from edge_lib.plots.qa import attention_steps, kind_scores, training_curves
from edge_lib.plots.retrieval import (
    audio_retrieval,
    recall_by_dim,
    retrieval_strip,
    similarity_heatmap,
    tsne,
    winoground_scores,
)
from edge_lib.plots.search import embedding_map, label_confusion, layout, result_strips
from edge_lib.plots.style import HIT_COLOUR
from edge_lib.plots.training import loss_curve, samples, speed_bars
