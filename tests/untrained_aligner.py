"""A saved aligner without training, for notebooks that read one from a folder."""

from pathlib import Path

import torch

from edge_lib.config import ExperimentConfig, FeatureSpec
from edge_lib.features.extract import write_features
from edge_lib.features.store import open_stores
from edge_lib.models import Aligner
from edge_lib.sources import load_table


def save_untrained_aligner(
    aligner: ExperimentConfig, experiment: ExperimentConfig, splits: list[str], folder: Path
) -> None:
    """Save an aligner of a config's modalities, and store the features of an experiment's splits,
    so that its notebook launches no process to encode them.
    """
    spec = FeatureSpec(aligner.modalities, experiment.features, experiment.data.cache_dir)
    write_features(experiment.data, spec, splits)
    stores = open_stores(spec, load_table(experiment.data, splits[0]))
    torch.manual_seed(0)
    widths = {name: store.widths for name, store in stores.items()}
    Aligner(aligner.modalities, aligner.loss.dims, widths).save_pretrained(folder)
