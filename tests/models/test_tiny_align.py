"""The aligner that ships: small, and as good as the run it is from."""

import json
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard

from edge_lib.config import ROOT, load_config
from edge_lib.metrics.recall import retrieval_ranks
from edge_lib.models import Aligner
from edge_lib.models.hub import SHIPPED
from edge_lib.models.saving import model_digest
from edge_lib.sources import load_table


def test_tiny_align_takes_at_most_4_megabytes():
    files = [path for path in SHIPPED["tiny-align"].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4e6


def test_tiny_align_has_the_card_of_its_run():
    """With the numbers of the executed notebook, and figures that exist."""
    folder = SHIPPED["tiny-align"]
    card = ModelCard.load(folder / "README.md")
    metrics = json.loads((ROOT / "runs/showcase/01_align/metrics.json").read_text())
    values = {r.metric_name.split(", gallery")[0]: r.metric_value for r in card.data.eval_results}
    assert values["R@1, text to vision"] == metrics["test.text_to_vision.r1"]
    assert values["R@1, vision to text"] == metrics["test.vision_to_text.r1"]
    assert 'Aligner.from_pretrained("tiny-align")' in card.text
    assert f"group score {metrics['swap.group']:.3f}" in card.text
    assert f"`{model_digest(folder)}`" in card.text
    figures = re.findall(r"!\[.*\]\((.*)\)", card.text)
    assert figures
    assert all((folder / figure).is_file() for figure in figures)


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
