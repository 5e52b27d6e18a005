"""Layers compared on a small table, against stores of the same layers."""

import numpy as np
import pandas as pd
import pytest
import torch

from edge_lib import __main__ as command_line
from edge_lib.config import ConfigError
from edge_lib.experiments.compare import compare_layers, layer_vectors
from edge_lib.features.encoder import load_encoder
from edge_lib.features.extract import write_features
from edge_lib.features.store import open_store
from edge_lib.metrics.similarity import linear_cka, mutual_knn
from edge_lib.runs import run as run_module
from edge_lib.sources import load_table

CONFIG = "params/tiny/align.yaml"
GROUPS = "data.scenes.val_size=64 "  # rows in groups of four, of which one is compared


def layer_store(small_align, modality, layer):
    """Pooled vectors of a layer, from a feature store of the val split."""
    config = small_align(
        f"{GROUPS} vision.pooler=pooled features.dtype=float32 {modality}.layer={layer}"
    )
    write_features(config.data, config.feature_spec, ["val"])
    table = load_table(config.data, "val")
    return open_store(config.feature_spec, modality, table).gather(range(0, 64, 4)).pooled


def test_compared_values_are_those_of_stored_layers(small_align):
    table = compare_layers(small_align(f"{GROUPS} compare.k=3 compare.rows=16"))
    assert len(table) == (3 + 1) * (7 + 1), "layers and the encoders' own outputs"
    vision, text = layer_store(small_align, "vision", 1), layer_store(small_align, "text", "null")
    [row] = table[(table.layer_a == 1) & (table.layer_b == "own")].itertuples()
    assert (row.modality_a, row.modality_b, row.rows) == ("vision", "text", 16)
    assert row.cka == pytest.approx(linear_cka(vision, text), abs=1e-5)
    assert row.knn == pytest.approx(mutual_knn(vision, text, 3))
    assert row.chance == pytest.approx(3 / 15)


def test_layers_and_encoders_are_chosen(small_align, tiny_vision):
    table = compare_layers(
        small_align(
            f"{GROUPS} compare.k=3 compare.rows=8 compare.candidates.text.layers=[-1,6,2] "
            "text.layer=3 vision.tokens=patch "
            f"compare.candidates.vision.encoders=[tiny-resnet,{tiny_vision}]"
        )
    )
    assert [*table.layer_b.unique()] == [6, 2, "own"]
    assert [*table.encoder_a.unique()] == ["tiny-resnet", str(tiny_vision)]
    assert set(table.rows) == {8}


@pytest.fixture
def holed(encode_image, make_table):
    """Rows without an image, with one that does not decode, without and with several captions."""
    rows = [{"image": encode_image(n), "texts": [f"caption {n}", "another"]} for n in range(8)]
    rows[1]["image"], rows[3]["image"], rows[5]["texts"] = None, b"no image", None
    return make_table(rows)


def test_rows_without_a_usable_item_are_nan(small_align, holed):
    config = small_align()
    rows = np.arange(8)
    for modality, missing in (("vision", [1, 3]), ("text", [5])):
        encoder = load_encoder(modality, config.modalities[modality].encoder_config)
        vectors = layer_vectors(encoder, modality, holed, rows, config.features)
        for own in vectors.values():
            assert own.isnan().any(1).nonzero()[:, 0].tolist() == missing
    assert holed.skipped["no caption"] == ["5"]
    assert sum(map(len, holed.skipped.values())) == 2, "a null is no skip"


def test_vector_of_a_row_is_that_of_its_first_caption(small_align, holed):
    config = small_align("features.batch_size=2")
    encoder = load_encoder("text", config.modalities["text"].encoder_config)
    some, alone = (
        layer_vectors(encoder, "text", holed, np.array(rows), config.features)
        for rows in ([2, 4, 7], [4])
    )
    for layer in (0, 4, "own"):
        torch.testing.assert_close(some[layer][1:2], alone[layer])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "compare.candidates.text.layers=[7]",
            r"^compare\.candidates\.text\.layers: all-MiniLM-L6-v2 has no layer 7, only 0, ",
        ),
        (
            "compare.k=16",
            "16 rows have both, of those that compare.rows and groups leave; k=16 needs 18",
        ),
        ("compare.candidates.audio.layers=[1]", "compare.candidates names audio, which has no sec"),
        ("compare.candidates.sound.layers=[1]", "compare.candidates.sound.*unknown name"),
        ("compare.candidates.text.layers=[]", "compare.candidates.text.layers"),
        ("compare.candidates.text.encoders=tiny", "compare.candidates.text.encoders"),
        ("compare.rows=3", "compare.rows"),
        (
            "compare.candidates.text.encoders=[tiny-bert]",
            r"^compare\.candidates\.text\.encoders: tiny-bert is not shipped",
        ),
        (
            "compare.candidates.vision.encoders=[tiny-resnet,all-MiniLM-L6-v2]",
            r"^compare\.candidates\.vision\.encoders: all-MiniLM-L6-v2 cannot be loaded for vis",
        ),
        ("text.pooled=cls_mean", r"^text\.encoder: all-MiniLM-L6-v2: pooled=cls_mean"),
        (
            "vision.pooled=cls compare.candidates.vision.encoders=[tiny-resnet]",
            "no known class tok",
        ),
        ("compare.split=dev", "compare.split: no split 'dev', only train, val"),
    ],
)
def test_compare_refuses_what_it_cannot_do(small_align, overrides, message):
    with pytest.raises(ConfigError, match=message):
        compare_layers(small_align(GROUPS + overrides))


def test_compare_command_writes_figures_and_tables(small_align, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    config = small_align(f"{GROUPS} compare.k=3 compare.candidates.text.layers=[1]")
    monkeypatch.setattr("edge_lib.config.load_config", lambda *_: config)
    assert command_line.main(["compare", CONFIG]) == 0
    *printed, folder = capsys.readouterr().out.splitlines()
    assert "compare_vision_text" in printed
    [path] = tmp_path.glob("runs/compare-*/figures/compare_vision_text.csv")
    assert str(path.parents[1]) in folder
    assert path.with_suffix(".png").stat().st_size > 1000
    table = pd.read_csv(path)
    assert [*table.layer_b.unique()] == ["1", "own"]
    assert {"encoder_a", "rows", "cka", "unbiased_cka", "knn", "chance"} <= {*table.columns}
