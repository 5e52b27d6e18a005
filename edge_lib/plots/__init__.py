"""Figures of results: each function returns a figure and the table of the numbers in it."""

from edge_lib.plots.ablation import pareto, stacked_bars, variant_dots, variant_lines
from edge_lib.plots.audio import audio_retrieval
from edge_lib.plots.bench import cost_ratios
from edge_lib.plots.comparison import compared_recall
from edge_lib.plots.fusion import fusion_bars, gate_weights
from edge_lib.plots.layers import agreement_scores, layer_heatmaps
from edge_lib.plots.map import explore_map
from edge_lib.plots.qa import attention_steps, kind_scores, training_curves
from edge_lib.plots.retrieval import (
    recall_by_dim,
    retrieval_strip,
    similarity_heatmap,
    tsne,
    winoground_scores,
)
from edge_lib.plots.search import embedding_map, label_confusion, layout, result_strips
from edge_lib.plots.style import HIT_COLOUR
from edge_lib.plots.training import loss_curve, samples, speed_bars

__all__ = [
    "HIT_COLOUR",
    "agreement_scores",
    "attention_steps",
    "audio_retrieval",
    "compared_recall",
    "cost_ratios",
    "embedding_map",
    "explore_map",
    "fusion_bars",
    "gate_weights",
    "kind_scores",
    "label_confusion",
    "layer_heatmaps",
    "layout",
    "loss_curve",
    "pareto",
    "recall_by_dim",
    "result_strips",
    "retrieval_strip",
    "samples",
    "similarity_heatmap",
    "speed_bars",
    "stacked_bars",
    "training_curves",
    "tsne",
    "variant_dots",
    "variant_lines",
    "winoground_scores",
]
