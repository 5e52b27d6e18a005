"""What the benchmark of LanceDB computes, on few embeddings."""

import pytest
import torch
import torch.nn.functional as F

from edge_lib.bench import lance

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def result():
    """512 rows of 64 dims, two partitions; each query is a row with some noise."""
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(512, 64, generator=generator), dim=1)
    queries = F.normalize(rows[:4] + 0.05 * torch.randn(4, 64, generator=generator), dim=1)
    patch = pytest.MonkeyPatch()
    patch.setattr(lance, "SHORTLIST", 512)
    patch.setattr(lance, "REFINE", 51)  # of 10 rows: all
    patch.setattr(lance, "SMALL", 16)
    yield lance.measure(rows, queries, partitions=2, probes=(1, 2))
    patch.undo()


def test_searches_that_look_at_every_row_find_the_exact_ones(result):
    assert result["recall10.ours_coarse_to_fine"] == 1
    assert result["recall10.ivf_pq2_refined"] == 1


def test_recall_falls_with_fewer_partitions_and_with_rounded_rows(result):
    """At least the query's own row is found, in its own partition."""
    assert 0.1 <= result["recall10.ivf_pq1_refined"] < 1
    assert result["recall10.ivf_pq2"] < 1
    assert "recall10.ours" not in result, "the exact search is what others are compared with"


def test_bytes_are_those_of_the_rows(result):
    assert result["bytes.ours_in_memory"] >= 512 * 64 * 4
    assert result["bytes.lance_on_disk"] >= 512 * 64 * 4
