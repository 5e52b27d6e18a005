"""FuseMix: which rows are mixed, how strongly, and on any number of processes."""

import numpy as np
import pytest
import torch

from edge_lib.config import TrainConfig
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.fusemix import draw_partners, mix_outputs

ROWS = 40


class OneHot:
    """Features whose pooled vector marks the row of an item."""

    def __init__(self, rows):
        self.rows, self.valid = torch.as_tensor(rows), np.ones(len(rows), bool)

    def gather(self, items):
        return EncoderOutput(None, None, torch.eye(ROWS)[self.rows[torch.as_tensor(items)]])


@pytest.fixture
def make(make_table):
    def make(fusemix=1.0, captions=None, text_dropout=0.0, **options):
        captions = captions or [[f"caption {i}"] for i in range(ROWS)]
        table = make_table([{"id": f"r{i}", "texts": x} for i, x in enumerate(captions)])
        features = {"vision": OneHot(np.arange(ROWS)), "text": OneHot(table.caption_rows)}
        train = TrainConfig(batch_size=8, text_dropout=text_dropout)
        return AlignmentBatches(table, features, train, 0, fusemix=fusemix, **options)

    return make


def test_fusemix_mixes_two_rows_with_one_weight_for_all_modalities(make):
    batches, seen = make(), []
    for step in range(50):
        batch = batches[step]
        images, texts = (batch.features[name].pooled for name in ("vision", "text"))
        assert torch.equal(images, texts)
        own = images[torch.arange(8), torch.from_numpy(batch.rows)]
        mixed = (images > 0).sum(1) == 2
        torch.testing.assert_close(images.sum(1), torch.ones(8))
        assert ((images > 0).sum(1) <= 2).all()
        assert set(images[mixed].nonzero()[:, 1].tolist()) <= set(batch.rows.tolist())
        assert len(own[mixed].unique()) <= 1, "one weight a batch"
        assert (own[~mixed] == 1).all(), "a row that is its own partner"
        seen += own[mixed][:1].tolist()
    assert min(seen) < 0.15
    assert max(seen) > 0.85
    assert np.mean(seen) == pytest.approx(0.5, abs=0.15)


def test_fusemix_of_large_parameters_stays_near_one_half(make):
    batches = make(fusemix=1000.0)
    weights = torch.cat([batches[step].features["text"].pooled for step in range(5)])
    mixed = weights[(weights > 0) & (weights < 1)]
    assert ((mixed - 0.5).abs() < 0.1).all()


def test_fusemix_of_zero_changes_no_batch(make):
    plain, mixed = make(fusemix=0.0, text_dropout=0.3), make(text_dropout=0.3)
    for step in range(4):
        assert plain[step].features["vision"].pooled.sum(0).max() == 1
        np.testing.assert_array_equal(plain[step].rows, mixed[step].rows)
        assert torch.equal(plain[step].present["text"], mixed[step].present["text"])


def test_fusemix_is_the_same_on_all_processes_and_again(make):
    whole, pieces_of = (
        make(text_dropout=0.2),
        [make(text_dropout=0.2, rank=r, world_size=2) for r in range(2)],
    )
    for step in (3, 0):
        for name in ("vision", "text"):
            pieces = [part[step] for part in pieces_of]
            joined = torch.cat([piece.features[name].pooled for piece in pieces])
            assert torch.equal(joined, whole[step].features[name].pooled)
            joined = torch.cat([piece.labels[name] for piece in pieces])
            assert torch.equal(joined, whole[step].labels[name])


def test_fusemix_labels_are_equal_where_both_pieces_ofare(make):
    batches = make(captions=[[f"caption {i % 2}"] for i in range(ROWS)])
    for step in range(5):
        batch = batches[step]
        rows = batch.features["vision"].pooled
        assert len(batch.labels["vision"].unique()) == 8
        # mixtures of captions 0 and 1 in the same order have the same text
        texts = torch.stack([rows[:, ::2].sum(1), rows[:, 1::2].sum(1)], 1)
        equal = (texts[:, None] - texts).abs().amax(2) < 1e-6
        labels = batch.labels["text"]
        assert torch.equal(labels[:, None] == labels, equal)


def test_partners_have_the_same_modalities():
    rng = np.random.default_rng(0)
    present = rng.random((3, 200)) < 0.6
    partners = draw_partners(present, rng)
    assert sorted(partners) == list(range(200))
    np.testing.assert_array_equal(present[:, partners], present)
    assert (partners != np.arange(200)).mean() > 0.9


def test_mixture_of_images_mixes_tokens_at_the_same_place():
    torch.manual_seed(0)
    mask = torch.ones(2, 4, dtype=torch.bool)
    a, b = (EncoderOutput(torch.randn(2, 4, 3), mask, torch.randn(2, 3), (2, 2)) for _ in range(2))
    mixed = mix_outputs(a, b, 0.3)
    torch.testing.assert_close(mixed.tokens, 0.3 * a.tokens + 0.7 * b.tokens)
    torch.testing.assert_close(mixed.pooled, 0.3 * a.pooled + 0.7 * b.pooled)
    assert mixed.mask.all()
    assert mixed.grid == (2, 2)


def test_mixture_of_texts_of_different_lengths_has_no_tokens():
    a, b = (
        EncoderOutput(torch.zeros(2, n, 3), torch.ones(2, n).bool(), torch.zeros(2, 3))
        for n in (4, 5)
    )
    assert mix_outputs(a, b, 0.3).tokens is None
