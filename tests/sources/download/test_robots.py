"""X-Robots-Tag."""

import pytest

from edge_lib.sources.download.robots import forbids


@pytest.mark.parametrize(
    "tag",
    [
        "noai",
        "NoImageAI",
        "nofollow, noindex",
        "noimageindex",
        "none",
        " noai ",
        "noai,noimageai",
        "edge-glass: noai",
        "Edge-Glass: nofollow, noai",
        "*: noai",
        "otherbot: nofollow, edge-glass: noindex",
        "max-image-preview:large, noai",
        "unavailable_after: 25 Jun 2010 15:00:00 PST, noai",
    ],
)
def test_tag_forbids(tag):
    assert forbids(tag)


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "all",
        "nofollow, noarchive",
        "otherbot: noai",
        "otherbot: nofollow, noai, noindex",
        "edge-glass: all, otherbot: noai",
        "max-image-preview:none",
        "unavailable_after: 25 Jun 2010 15:00:00 PST",
        "index",
        "noaim",
        ",,:,",
    ],
)
def test_tag_does_not_forbid(tag):
    assert not forbids(tag)
