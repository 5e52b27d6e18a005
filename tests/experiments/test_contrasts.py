"""Scores of near-misses by an aligner whose embeddings are known."""

import pytest
import torch
from PIL import Image

from edge_lib.config import ConfigError
from edge_lib.experiments.contrasts import contrast_metrics, score_contrasts
from edge_lib.sources.contrasts import ContrastExample, ContrastSet

COLOURS = {"red": [1.0, 0, 0], "green": [0, 1.0, 0], "blue": [0, 0, 1.0]}


class ColourAligner:
    """Embeds a picture by the colour of its first pixel, and a text by the colour that it names."""

    modalities = {"vision": None, "text": None}  # noqa: RUF012

    def embed(self, modality, items):
        if modality == "text":
            return torch.tensor([COLOURS[text.split()[0]] for text in items])
        return torch.tensor([item.getpixel((0, 0)) for item in items]).float()


@pytest.fixture
def make_set(tmp_path):
    """make_set((id, colours, captions), ...) -> a set of examples with pictures of colours."""
    for name, colour in {"red": "red", "green": "lime", "blue": "blue"}.items():
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")

    def make(*rows):
        files = [[tmp_path / f"{colour}.png" for colour in colours] for _, colours, _ in rows]
        rows = zip(rows, files, strict=True)
        return ContrastSet(
            "near", [ContrastExample(i, f, captions) for (i, _, captions), f in rows]
        )

    return make


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_scores_of_one_picture(make_set, batch_size):
    rows = [("a", ["red"], ["red", "blue"]), ("b", ["red"], ["green", "red"])]
    dataset = make_set(*rows, ("c", ["blue"], ["blue", "green"]))
    table = score_contrasts(ColourAligner(), dataset, [3, 1], batch_size=batch_size)
    assert table[["dim", "score", "examples", "set"]].to_numpy().tolist() == [
        [3, "text", 3, "near"],
        [1, "text", 3, "near"],
    ]
    assert table["value"].tolist() == pytest.approx([2 / 3, 1 / 3])  # blue is zero at dim 1
    metrics = contrast_metrics(table)
    assert metrics["contrast.near.text"] == metrics["contrast.near.text.dim3"] == table["value"][0]
    assert metrics["contrast.near.text.dim1"] == table["value"][1]


def test_scores_of_two_pictures(make_set):
    dataset = make_set(
        ("a", ["red", "blue"], ["red", "blue"]),
        ("b", ["red", "blue"], ["blue", "red"]),
        ("c", ["red", "red"], ["red", "blue"]),
        ("d", ["green", "blue"], ["green", "blue"]),
    )
    table = score_contrasts(ColourAligner(), dataset, [3])
    assert dict(zip(table["score"], table["value"], strict=True)) == {
        "text": 0.5,
        "image": 0.5,
        "group": 0.5,
    }


def test_broken_picture_skips_its_example(make_set, caplog):
    rows = [("a", ["red", "broken"], ["red", "blue"]), ("b", ["red", "blue"], ["red", "blue"])]
    dataset = make_set(*rows)
    table = score_contrasts(ColourAligner(), dataset, [3], batch_size=1)
    assert table["examples"].tolist() == [1, 1, 1]
    (reason,) = dataset.skipped
    assert dataset.skipped[reason] == ["a"]
    assert "near: not an image file, or of an unknown format: 1 skipped (a)" in caplog.text


def test_no_usable_picture_is_a_config_error(make_set):
    with pytest.raises(ConfigError, match=r"evaluate\.contrasts\.near: no picture can be decoded"):
        score_contrasts(ColourAligner(), make_set(("a", ["broken"], ["red", "blue"])), [3])


def test_aligner_without_text_is_a_config_error(make_set):
    aligner = ColourAligner()
    aligner.modalities = {"vision": None, "audio": None}
    with pytest.raises(ConfigError, match="the aligner has no text"):
        score_contrasts(aligner, make_set(("a", ["red"], ["red", "blue"])), [3])
