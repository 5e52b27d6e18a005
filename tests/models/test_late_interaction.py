"""Aligners whose heads keep a vector for each token: training, saving, evaluation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge_lib.config import ConfigError, FusionConfig, SearchConfig
from edge_lib.experiments.align import embed_table, measure_aligner, probe_metrics
from edge_lib.experiments.embed import embed_source
from edge_lib.experiments.search import present_modalities
from edge_lib.export.folder import export_model
from edge_lib.features.extract import write_features
from edge_lib.features.store import open_stores
from edge_lib.metrics.recall import recall_table
from edge_lib.models import Aligner, Fuser
from edge_lib.nn.maxsim import TokenVectors
from edge_lib.serving.embedding import TorchEmbedder
from edge_lib.sources import load_table
from edge_lib.sources.scenes.probes import swap_scores

TEXTS = ["a large red three at the top", "a small blue seven in the centre and a small red one"]
MAXSIM = (
    "vision.pooler=tokens vision.head=maxsim text.head=maxsim text.pooler=transformer "
    "text.num_heads=2 features.dtype=float32 "
)


@pytest.fixture(scope="module")
def config(small_align):
    config = small_align(MAXSIM)
    write_features(config.data, config.feature_spec)
    return config


def plain_scores(texts, images, dim):
    """Item by item: the mean over words of the best cosine with a part of the image."""
    rows = [
        [F.normalize(x.vectors[i][x.mask[i]][:, :dim], dim=1) for i in range(len(x))]
        for x in (texts, images)
    ]
    return torch.stack([torch.stack([(t @ i.T).amax(1).mean() for i in rows[1]]) for t in rows[0]])


def test_late_aligner_embeds_raw_items_like_stored_features(config, aligner):
    table = load_table(config.data, "val")
    embeddings, rows = embed_table(aligner, table, open_stores(config.feature_spec, table), 5)
    assert rows["text"].tolist() == [*range(len(table))]
    for name, items in (("text", table.captions[:4]), ("vision", table.images(range(4)))):
        raw, stored = aligner.embed(name, items), embeddings[name][[0, 1, 2, 3]]
        assert raw.rank == stored.rank
        assert raw.mask.sum(1).tolist() == stored.mask.sum(1).tolist()
        valid = stored.vectors[stored.mask]
        torch.testing.assert_close(raw.vectors[raw.mask], valid, atol=1e-5, rtol=1e-4)


def test_late_aligner_loads_with_the_same_token_vectors(aligner, tmp_path):
    aligner.save_pretrained(tmp_path)
    loaded = Aligner.from_pretrained(tmp_path)
    assert loaded.late_interaction
    before, after = (model.embed("text", TEXTS) for model in (aligner, loaded))
    assert torch.equal(before.vectors, after.vectors)
    assert torch.equal(before.mask, after.mask)
    assert loaded.embed("text", TEXTS[0]).vectors.shape[2] == 16
    assert len(loaded.embed("text", [])) == 0


def test_aligner_without_head_key_keeps_one_vector(small_align):
    """As an older version saved it."""
    modality = small_align().vision.model_dump(exclude={"head"})
    aligner = Aligner({"vision": type(small_align().vision)(**modality)}, [8], {"vision": (128, 8)})
    assert not aligner.late_interaction


def test_late_recall_is_that_of_plain_scores(config, aligner):
    table = load_table(config.data, "val")
    stores = open_stores(config.feature_spec, table)
    embeddings, rows = embed_table(aligner, table, stores)
    recall = recall_table(embeddings, rows, [16, 8], [1, 5], table.groups)
    for dim in (16, 8):
        scores = plain_scores(embeddings["text"], embeddings["vision"], dim)
        for query, matrix in (("text", scores), ("vision", scores.T)):
            ranks = (matrix >= matrix.diagonal()[:, None]).sum(1) - 1
            for k in (1, 5):
                row = recall[(recall["query"] == query) & (recall.dim == dim) & (recall.k == k)]
                assert row.recall.item() == pytest.approx((ranks < k).float().mean().item())


def random_tokens(counts, rank):
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return TokenVectors(torch.randn(*mask.shape, 8), mask, rank)


@pytest.mark.parametrize("pairs", [3, 150])  # below and above the pairs scored at a time
def test_late_swap_scores_are_those_of_plain_scores(pairs):
    torch.manual_seed(0)
    images = random_tokens([4] * 2 * pairs, 0)
    texts = random_tokens(np.random.default_rng(0).integers(1, 4, 2 * pairs).tolist(), 2)
    table = swap_scores(images, texts, [8, 2]).set_index(["dim", "score"])["value"]
    for dim in (8, 2):
        s = plain_scores(texts, images, dim)  # text, image
        a, b = torch.arange(0, 2 * pairs, 2), torch.arange(1, 2 * pairs, 2)
        text = (s[a, a] > s[b, a]) & (s[b, b] > s[a, b])
        image = (s[a, a] > s[a, b]) & (s[b, b] > s[b, a])
        expected = {"text": text, "image": image, "group": text & image}
        for name, hits in expected.items():
            assert table[dim, name] == pytest.approx(hits.float().mean().item())


def test_late_aligner_trains_from_a_config(config, tmp_path):
    metrics = measure_aligner(config, tmp_path)
    names = ["test.text_to_vision.r1", "test.vision_to_text.r1.dim8", "swap.group.dim16"]
    assert all(0 <= metrics[name] <= 1 for name in names)
    assert metrics["steps"] == 12
    best = Aligner.from_pretrained(tmp_path / "checkpoints/best")
    assert probe_metrics(config.data, config.feature_spec, best, [16]).keys() == {
        "swap.text.dim16",
        "swap.image.dim16",
        "swap.group.dim16",
    }


def test_late_aligner_gradients_reach_every_parameter(config, aligner):
    table = load_table(config.data, "val")
    stores = open_stores(config.feature_spec, table)
    embeddings = aligner({name: store.gather(range(8)) for name, store in stores.items()})
    scores = next(embeddings["text"].scores(embeddings["vision"], [16]))
    F.cross_entropy(20 * scores, torch.arange(8)).backward()
    unused = [n for n, p in aligner.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


def test_late_aligner_is_refused_where_one_vector_is_needed(config, aligner, tmp_path):
    table = load_table(config.data, "val")
    uses = [
        lambda: export_model(aligner, tmp_path / "out"),
        lambda: embed_source(aligner, tmp_path / "in", tmp_path / "out.parquet"),
        lambda: present_modalities(aligner, table, SearchConfig()),
        lambda: Fuser(aligner, FusionConfig()),
        lambda: TorchEmbedder(aligner),
    ]
    for use in uses:
        with pytest.raises(
            ConfigError, match=r"needs one vector .* one for each token \(head: max"
        ):
            use()


@pytest.mark.parametrize("pooler", ["pooled", "mean", "cls", "attention"])
def test_maxsim_head_needs_several_vectors(small_align, pooler):
    with pytest.raises(ConfigError, match="head 'maxsim' needs a vector for each token"):
        small_align(f"{MAXSIM} vision.pooler={pooler}")


def test_transformer_width_divides_among_heads_of_even_width(small_align):
    with pytest.raises(ConfigError, match="width 12 is not a multiple of 2 x num_heads 4"):
        small_align("text.pooler=transformer text.width=12 text.num_heads=4")
