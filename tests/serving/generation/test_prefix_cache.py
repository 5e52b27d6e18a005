"""Soft tokens by content, within a number of bytes."""

import torch

from edge_lib.serving.generation.prefix_cache import PrefixCache, SoftTokens


def soft(rows):
    """Soft tokens of 10 bytes a row."""
    return SoftTokens(torch.zeros(rows, 9, dtype=torch.uint8), torch.ones(rows, dtype=torch.bool))


def test_least_recently_used_items_are_dropped():
    cache = PrefixCache(100)
    for key in "abc":
        cache.put(key, soft(3))
    assert (cache.nbytes, len(cache)) == (90, 3)
    assert cache.get("a") is not None
    cache.put("d", soft(4))
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    assert cache.nbytes == 100
    cache.put("e", soft(10))
    assert [key for key in "abcde" if cache.get(key)] == ["e"]
    assert (cache.nbytes, len(cache)) == (100, 1)


def test_items_over_the_limit_are_not_kept():
    cache = PrefixCache(100)
    cache.put("a", soft(3))
    cache.put("large", soft(11))
    assert (cache.nbytes, len(cache)) == (30, 1)
    none = PrefixCache(0)
    none.put("a", soft(1))
    assert (none.get("a"), none.nbytes) == (None, 0)
