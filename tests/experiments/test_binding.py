"""What fewer token vectors cost."""

import pytest
import torch
import torch.nn.functional as F

from edge_lib.experiments.binding import token_costs
from edge_lib.nn.maxsim import TokenVectors

ITEMS = 30


@pytest.fixture
def tokens():
    """Queries of three tokens of their item, with noise, and items of eight."""
    torch.manual_seed(0)
    items = torch.randn(ITEMS, 8, 16)
    queries = items[:, :3] + 0.3 * torch.randn(ITEMS, 3, 16)
    masks = (torch.ones(x.shape[:2], dtype=torch.bool) for x in (queries, items))
    return [TokenVectors(x, m, r) for x, m, r in zip((queries, items), masks, (2, 0), strict=True)]


def test_token_costs_of_all_tokens_are_those_of_plain_scores(tokens):
    queries, items = tokens
    row = token_costs(queries, items, [1], shortlist=ITEMS).iloc[0]
    cosines = torch.einsum("qld,npd->qnlp", *(F.normalize(x.vectors, dim=2) for x in tokens))
    scores = cosines.amax(3).mean(2)
    assert row["R@1"] == pytest.approx((scores.argmax(1) == torch.arange(ITEMS)).float().mean())
    assert row.tokens == 8
    assert row.bytes >= 8 * 16 * 4  # its vectors in float32
    assert row.found == 1


def test_token_costs_fall_with_the_number_of_tokens(tokens):
    costs = token_costs(*tokens, [1, 2, 8])
    assert costs.factor.tolist() == [1, 2, 8]
    assert costs.tokens.tolist() == [8, 4, 1]
    assert costs.bytes.is_monotonic_decreasing
    assert costs["R@1"].iloc[0] > costs["R@1"].iloc[2]


def test_token_costs_tell_what_a_short_shortlist_misses(tokens):
    queries, items = tokens
    # all pooled vectors alike: the shortlist is of ten items by number
    opposite = TokenVectors(
        torch.cat([items.vectors, -items.vectors], 1), torch.ones(ITEMS, 16) > 0
    )
    opposite.vectors[..., 0] += 0.01
    assert token_costs(queries, opposite, [1], shortlist=10).found[0] < 0.9
