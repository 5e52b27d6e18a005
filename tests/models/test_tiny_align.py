"""The aligner that ships: small, and as good as the run it is from."""

import numpy as np
import pytest

from edge_lib.config import load_config
from edge_lib.metrics.recall import retrieval_ranks
from edge_lib.models import Aligner
from edge_lib.models.hub import SHIPPED
from edge_lib.sources import load_table


def test_tiny_align_takes_at_most_4_megabytes():
    files = [path for path in SHIPPED["tiny-align"].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4e6


def test_tiny_align_finds_scenes_it_was_not_trained_on(tmp_path):
    """Recall at 1 among 200 of the 2,000 test scenes of notebook 01, whose R@1 is 0.91."""
    overrides = f"data.scenes.test_size=200 data.cache_dir={tmp_path}"
    config = load_config("params/tiny/align.yaml", overrides)
    images, captions = load_table(config.data, "test").examples(200)
    aligner = Aligner.from_pretrained("tiny-align")
    vision, text = aligner.embed("vision", images), aligner.embed("text", captions)
    hits = [
        retrieval_ranks(*pair, dims=[256, 16]) == 0 for pair in ((text, vision), (vision, text))
    ]
    recall = np.stack(hits).mean(2).ravel()
    assert recall.tolist() == pytest.approx([0.93, 0.925, 0.92, 0.935], abs=0.0051)
