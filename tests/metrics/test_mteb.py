"""mteb's own evaluation of the shipped aligner on tasks of a small table, beside our metrics."""

import io

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from PIL import Image

from edge_lib import Aligner, load_config, load_table
from edge_lib.config import ConfigError
from edge_lib.experiments.zero_shot import known_labels, nearest_labels, prompt_embeddings
from edge_lib.metrics.mteb import MTEBEncoder
from edge_lib.metrics.recall import retrieval_ranks

mteb = pytest.importorskip("mteb")
from mteb.abstasks import AbsTaskRetrieval, AbsTaskZeroShotClassification  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import EncoderProtocol  # noqa: E402

COLOURS = ["red", "green", "blue", "orange", "purple"]
FACTS = {"dataset": {"path": "none/local", "revision": "1"}, "description": "scenes"}
FACTS |= {"eval_splits": ["test"], "eval_langs": ["eng-Latn"], "modalities": ["image", "text"]}


@pytest.fixture(scope="module")
def aligner():
    return Aligner.from_pretrained("tiny-align")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    overrides = f"data.scenes.test_size=40 data.cache_dir={tmp_path_factory.mktemp('cache')}"
    return load_table(load_config("params/tiny/align.yaml", overrides).data, "test")


@pytest.fixture
def encoder():
    return MTEBEncoder(StubAligner(), "me/stub", 2)


class Scenes(AbsTaskRetrieval):
    """Captions as queries, pictures as documents."""

    metadata = TaskMetadata(
        name="Scenes", type="Any2AnyRetrieval", category="t2i", main_score="ndcg_at_10", **FACTS
    )

    def __init__(self, images, captions):
        super().__init__()
        names = [f"d{n}" for n in range(len(images))]
        queries = {f"q{n}": {name: 1} for n, name in enumerate(names)}
        split = {
            "corpus": Dataset.from_dict({"id": names, "image": images}),
            "queries": Dataset.from_dict({"id": [*queries], "text": captions}),
            "relevant_docs": queries,
            "top_ranked": None,
        }
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


class SceneColours(AbsTaskZeroShotClassification):
    """Pictures of one colour."""

    metadata = TaskMetadata(
        name="SceneColours",
        type="ZeroShotClassification",
        category="i2t",
        main_score="accuracy",
        **FACTS,
    )

    def __init__(self, images, labels):
        super().__init__()
        columns = Dataset.from_dict({"image": images, "label": labels})
        self.dataset, self.data_loaded = DatasetDict({"test": columns}), True

    def get_candidate_labels(self):
        return [f"a large {colour} three" for colour in COLOURS]


class StubAligner:
    """Embeds a picture by its first pixel, a text by its length and a clip by its length."""

    modalities = {"vision": None, "text": None, "audio": None}  # noqa: RUF012
    dims = [3, 2]  # noqa: RUF012
    encoder_digests = None
    weight = 1.0

    def embed(self, modality, items):
        if modality == "vision":
            return torch.tensor([item.getpixel((0, 0)) for item in items]).float()
        return torch.tensor([[len(item), 10.0, 5.0] for item in items])

    def check_pooled(self, user):
        pass

    def state_dict(self):
        return {"weight": torch.tensor([self.weight])}


def evaluate(encoder, task):
    (result,) = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False).task_results
    return result.scores["test"][0]


@pytest.mark.parametrize("dim", [None, 16])
def test_retrieval_by_mteb_is_our_recall(aligner, table, dim):
    images, captions = table.examples(40)
    scores = evaluate(MTEBEncoder(aligner, "me/tiny", dim), Scenes(images, captions))
    vision, text = aligner.embed("vision", images), aligner.embed("text", captions)
    ranks = retrieval_ranks(text, vision, dims=[dim or 256])[0]
    for k in (1, 3, 5):
        assert scores[f"recall_at_{k}"] == pytest.approx((ranks < k).mean(), abs=1e-4)
    ndcg = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean()
    assert scores["ndcg_at_10"] == pytest.approx(ndcg, abs=1e-4)
    assert 0.5 < (ranks < 1).mean() < 1


def test_zero_shot_by_mteb_is_our_accuracy(aligner, table):
    known = known_labels(table, COLOURS)
    rows = np.flatnonzero(known >= 0)
    images = table.images(rows)
    task = SceneColours(images, known[rows].tolist())
    scores = evaluate(MTEBEncoder(aligner, "me/tiny"), task)
    prompts = prompt_embeddings(aligner, COLOURS, ["a large {} three"])
    given, _ = nearest_labels(prompts, aligner.embed("vision", images))
    assert scores["accuracy"] == pytest.approx((given == known[rows]).mean())
    assert scores["accuracy"] > 0.5


def test_encoder_has_the_methods_that_mteb_asks_for(encoder):
    assert isinstance(encoder, EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.modalities) == (
        "me/stub",
        2,
        ["image", "audio", "text"],
    )


def test_revision_changes_with_weights_and_dim():
    aligner = StubAligner()
    first, other = (MTEBEncoder(aligner, "me/stub", dim).mteb_model_meta.revision for dim in (3, 2))
    aligner.weight = 2.0
    changed = MTEBEncoder(aligner, "me/stub", 3).mteb_model_meta.revision
    assert len({first, other, changed}) == 3
    assert MTEBEncoder(StubAligner(), "me/stub").mteb_model_meta.revision == first


def test_embeddings_have_unit_length_at_the_dim(encoder):
    embedded = encoder.encode([{"text": ["abc", "abcde"]}, {"text": ["a"]}], hf_split="test")
    expected = F.normalize(torch.tensor([[3.0, 10], [5, 10], [1, 10]]), dim=1)
    np.testing.assert_allclose(embedded, expected, rtol=1e-6)
    assert embedded.dtype == np.float32


def test_picture_with_a_text_is_the_sum_of_both(encoder):
    embedded = encoder.encode(
        [{"image": [Image.new("RGB", (4, 4), "red")], "text": ["abcdefghij"]}]
    )
    np.testing.assert_allclose(embedded, [[1 + 0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_picture_of_any_mode_is_taken(encoder):
    grey, clear = Image.new("L", (4, 4), 90), Image.new("RGBA", (4, 4), (0, 255, 0, 0))
    embedded = encoder.encode([{"image": [grey, clear]}])  # what is transparent is white
    np.testing.assert_allclose(embedded, [[0.5**0.5] * 2] * 2, rtol=1e-6)


def wav(samples, rate):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, "FLOAT", format="WAV")
    return file.getvalue()


@pytest.mark.parametrize(
    "clip",
    [
        {"array": np.zeros(16_000), "sampling_rate": 16_000},
        {"array": np.zeros(44_100, np.float32), "sampling_rate": 44_100},
        {"array": np.zeros((8000, 2)), "sampling_rate": 8000},
        {"bytes": wav(np.zeros(8000), 8000), "path": None},
    ],
    ids=["16k", "44k", "stereo", "file"],
)
def test_clip_is_resampled_to_16_khz(encoder, clip):
    embedded = encoder.encode([{"audio": [clip]}])
    expected = F.normalize(torch.tensor([[16_000.0, 10]]), dim=1)
    np.testing.assert_allclose(embedded, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("modality", "items"),
    [
        ("text", ["", "abc"]),
        ("text", [None, "abc"]),
        ("text", [" \n", "abc"]),
        ("image", [None, Image.new("RGB", (4, 4), "red")]),
        ("image", [Image.new("RGB", (1, 900)), Image.new("RGB", (4, 4), "red")]),
        ("audio", [{"bytes": b"no sound"}, {"bytes": wav(np.zeros(800), 16_000)}]),
        ("audio", [{"array": [], "sampling_rate": 8000}, {"bytes": wav(np.zeros(800), 16_000)}]),
        (
            "audio",
            [{"array": [np.nan], "sampling_rate": 8000}, {"bytes": wav(np.zeros(9), 16_000)}],
        ),
    ],
    ids=["empty", "none", "blank", "no picture", "strip", "no sound", "no samples", "nan"],
)
def test_item_without_a_usable_form_is_zero_and_counted(encoder, caplog, modality, items):
    first, second = encoder.encode([{modality: items}])
    assert (first == 0).all()
    assert np.linalg.norm(second) == pytest.approx(1)
    assert encoder.skipped == 1
    assert "1 of 2 items have no embedding" in caplog.text


def test_batch_of_other_modalities_is_a_value_error(encoder):
    with pytest.raises(
        ValueError, match="a batch of video, but the aligner has vision, text, audio"
    ):
        encoder.encode([{"video": [None]}])


def test_dim_that_the_aligner_lacks_is_a_value_error():
    with pytest.raises(ValueError, match="dim 5: the aligner has 3, 2"):
        MTEBEncoder(StubAligner(), "me/stub", 5)


def test_heads_with_token_vectors_are_refused():
    aligner = StubAligner()

    def refuse(user):
        raise ConfigError(f"{user} needs one vector for each item")

    aligner.check_pooled = refuse
    with pytest.raises(ConfigError, match="mteb needs one vector"):
        MTEBEncoder(aligner, "me/stub")


def test_similarities_are_cosines(encoder):
    a, b = np.array([[3.0, 0], [0, 2.0]], np.float32), torch.tensor([[1.0, 1.0], [0, 1.0]])
    expected = torch.tensor([[0.5**0.5, 0], [0.5**0.5, 1]])
    torch.testing.assert_close(encoder.similarity(a, b), expected)
    torch.testing.assert_close(encoder.similarity_pairwise(a, b), expected.diagonal())
    assert encoder.similarity(a[0], b).shape == (1, 2)
