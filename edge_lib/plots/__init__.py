"""Pictures of results: each function returns the figure and the table of the numbers in it."""

from edge_lib.plots.ablation import arms, dots, makeup, pareto
from edge_lib.plots.fusion import fusion_bars, gate_weights, listen_and_look
from edge_lib.plots.qa import attention_steps, kind_scores, training_curves
from edge_lib.plots.retrieval import (
    recall_by_dim,
    retrieval_strip,
    similarity_heatmap,
    swap_probe,
    tsne,
)
from edge_lib.plots.style import HIT
from edge_lib.plots.training import loss_curve, samples, speed_bars

__all__ = [
    "HIT",
    "arms",
    "attention_steps",
    "dots",
    "fusion_bars",
    "gate_weights",
    "kind_scores",
    "listen_and_look",
    "loss_curve",
    "makeup",
    "pareto",
    "recall_by_dim",
    "retrieval_strip",
    "samples",
    "similarity_heatmap",
    "speed_bars",
    "swap_probe",
    "training_curves",
    "tsne",
]
