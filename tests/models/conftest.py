"""Fixtures of several modules of models."""

import pytest
import torch

from edge_lib.features.store import open_stores
from edge_lib.models import Aligner
from edge_lib.sources import load_table


@pytest.fixture
def aligner(config):
    """An untrained aligner of the `config` of a test's module, whose features are stored."""
    torch.manual_seed(0)
    stores = open_stores(config.feature_spec, load_table(config.data, "val"))
    widths = {name: store.widths for name, store in stores.items()}
    return Aligner(config.modalities, config.loss.dims, widths).eval()
