"""Zero-shot labels, probes and their scores, on embeddings worked by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge_lib.config import ConfigError, EvaluateConfig
from edge_lib.experiments.zero_shot import (
    LabelledItems,
    class_names,
    known_labels,
    label_metrics,
    labelled_items,
    nearest_labels,
    probe_table,
    prompt_embeddings,
    zero_shot_table,
)

VECTORS = {"red": [3.0, 0, 0], "blue": [0, 2.0, 0], "three": [0, 0, 1.0]}


class StubAligner:
    """Embeds texts by VECTORS, and every other text as (1, 1, 0)."""

    modalities = ("vision", "text")

    def embed(self, modality, items):
        return torch.tensor([VECTORS.get(item, [1.0, 1.0, 0]) for item in items])

    def check_pooled(self, user):
        pass


# --- labels from their names ---------------------------------------------------------------------


def test_label_is_the_nearest_mean_of_its_prompts():
    rows = torch.tensor([[2.0, 1, 0], [0, 1, 5.0]])
    numbers, cosines = nearest_labels(
        prompt_embeddings(StubAligner(), ["red", "blue"], ["{}"]), rows
    )
    assert numbers.tolist() == [0, 1]
    np.testing.assert_allclose(cosines, [2 / 5**0.5, 1 / 26**0.5], atol=1e-6)
    prompts = prompt_embeddings(StubAligner(), ["red", "three"], ["{}", "{} there"])  # (1, 1, 0)
    _, cosines = nearest_labels(prompts, torch.tensor([[1.0, 0, 0]]))
    mean = F.normalize(torch.tensor([1 + 0.5**0.5, 0.5**0.5, 0]), dim=0)
    np.testing.assert_allclose(cosines, [mean[0]], atol=1e-6)


def test_label_at_a_dim_is_that_of_the_first_columns():
    prompts = torch.tensor([[[1.0, 0, 9]], [[0, 1.0, 0]]])
    rows = torch.tensor([[0.5, 1.0, 9]])
    assert nearest_labels(prompts, rows)[0] == [0]
    numbers, cosines = nearest_labels(prompts, rows, 2)
    assert numbers == [1]
    np.testing.assert_allclose(cosines, [1 / 1.25**0.5], atol=1e-6)


def test_prompts_are_embedded_in_batches(monkeypatch):
    monkeypatch.setattr("edge_lib.experiments.zero_shot.BATCH", 2)
    prompts = prompt_embeddings(StubAligner(), ["red", "blue", "three"], ["{}", "a {}", "{}."])
    assert prompts.shape == (3, 3, 3)
    assert prompts[:, 0].tolist() == [*VECTORS.values()]
    assert prompts[:, 1:].unique(dim=1).tolist() == [[[1, 1, 0]]] * 3


def test_aligner_without_text_is_a_config_error():
    aligner = StubAligner()
    aligner.modalities = ("vision", "audio")
    with pytest.raises(ConfigError, match="no text"):
        prompt_embeddings(aligner, ["red", "blue"], ["{}"])


# --- classes of a table --------------------------------------------------------------------------


def test_classes_of_captions_are_the_distinct_ones_in_order(make_table):
    table = make_table([{"texts": text} for text in (["Dog"], None, ["cat", "dog "], ["Cat"])])
    assert class_names(EvaluateConfig(classes="captions"), table) == ["Dog", "cat"]
    assert class_names(EvaluateConfig(classes=["a", "b"]), table) == ["a", "b"]
    assert class_names(EvaluateConfig(), table) == []


def test_captions_that_are_no_classes_are_a_config_error(make_table, monkeypatch):
    table = make_table([{"texts": ["cat"]}, {"texts": ["cat"]}])
    with pytest.raises(ConfigError, match="small has 1 distinct captions; expected 2 to"):
        class_names(EvaluateConfig(classes="captions"), table)
    monkeypatch.setattr("edge_lib.experiments.zero_shot.MAX_CLASSES", 2)
    table = make_table([{"texts": [text]} for text in "abcd"])
    with pytest.raises(ConfigError, match="small has more distinct captions; expected 2 to 2"):
        class_names(EvaluateConfig(classes="captions"), table)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"classes": ["cat", "Cat"]}, "'cat' stands there twice"),
        ({"classes": ["cat"]}, "at least 2 items"),
        ({"classes": "labels"}, "'captions'"),
        ({"templates": ["a photo"]}, "'a photo' needs one {} in place of the label"),
        ({"probe_split": "train"}, "probe_split needs classes"),
    ],
    ids=["twice", "one", "word", "template", "probe"],
)
def test_mistake_in_classes_is_an_error(section, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig.model_validate(section)


def test_known_label_is_the_only_one_in_the_captions(make_table):
    captions = [
        "A CAT.",
        "category",
        "cat and dog",
        "cats",
        None,
        "fire truck",
        "a C++ book",
        "truck",
    ]
    table = make_table([{"texts": text and [text]} for text in captions])
    labels = ["cat", "dog", "truck", "fire truck", "C++"]
    assert known_labels(table, labels).tolist() == [0, -1, -1, -1, -1, 3, 4, 2]
    assert known_labels(table, []).tolist() == [-1] * 8


def test_known_label_may_be_repeated_in_several_captions(make_table):
    table = make_table([{"texts": ["a cat", "one cat"]}, {"texts": ["a cat", "a dog"]}])
    assert known_labels(table, ["dog", "cat"]).tolist() == [1, -1]


def test_captions_that_name_no_class_are_a_config_error(make_table):
    table = make_table([{"texts": ["a cat and a dog"]}, {"texts": ["a bird"]}, {}])
    with pytest.raises(ConfigError, match=r"no row of small .* one of cat, dog$"):
        labelled_items(table, {}, {}, ["cat", "dog"])


# --- scores --------------------------------------------------------------------------------------


def test_tables_hold_each_modality_method_and_dim(make_table):
    """Two classes that the first column separates; the second one exchanges two of six rows."""
    table = make_table([{"texts": [f"a {name}"]} for name in ("cat", "dog") * 3])
    columns = [[1.0, -1] * 3, [9.0, 0, 0, 9, 0, 0]]
    pictures, rows = torch.tensor(columns).T, np.arange(6)
    embeddings = {"vision": pictures, "text": torch.ones(6, 2)}
    items = labelled_items(table, embeddings, {"vision": rows, "text": rows}, ["cat", "dog"])
    assert items.keys() == {"vision"}
    prompts = torch.tensor([[[1.0, 1]], [[-1.0, 1]]])
    scores = zero_shot_table(prompts, items, [2, 1], 20)
    assert scores["dim"].tolist() == [2, 1]
    assert scores["accuracy"].tolist() == [1, 1]
    assert scores[["chance", "majority", "items"]].to_numpy().tolist() == [[0.5, 0.5, 6]] * 2
    wrong = zero_shot_table(prompts.flip(0), items, [1])
    assert label_metrics(wrong) == {
        "zero_shot.vision.accuracy": 0,
        "zero_shot.vision.accuracy.dim1": 0,
    }


def test_probes_read_the_labels_of_another_table():
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(80) % 2
    rows = torch.randn(80, 3, generator=generator)
    rows[:, 1] += torch.from_numpy(6.0 * labels - 3)  # the first column says nothing
    train, test = (
        {"audio": LabelledItems(rows[part], labels[part], np.arange(80)[part])}
        for part in (slice(0, 50), slice(50, 80))
    )
    table = probe_table(train, test, [1, 3]).set_index(["method", "dim"])["accuracy"]
    assert table["linear_probe", 3] > 0.9
    assert table["knn", 3] > 0.9
    assert 0.2 < table["knn", 1] < 0.8
    metrics = label_metrics(probe_table(train, test, [1, 3]))
    assert metrics["knn.audio.accuracy"] == table["knn", 3]
