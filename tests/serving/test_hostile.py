"""A short campaign of hostile requests against a real embedder, and a fake generator that decodes
what it is given; `hostile.py` is the long one.
"""

import asyncio

import pytest
from serving.fakes import fake_service
from serving.hostile import Campaign
from serving.live import live_server
from serving.test_index import write_index

from edge_lib.serving.embedding import EmbedQueue, TorchEmbedder
from edge_lib.serving.index import SearchIndex
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings


@pytest.fixture
def real_service(aligner, tmp_path):
    settings = ServeSettings(body_timeout=1)
    embedder = EmbedQueue(TorchEmbedder(aligner), settings, Metrics())
    index = SearchIndex(write_index(tmp_path / "index.parquet", dims=(8, 16)))
    return fake_service(settings, embedder=embedder, index=index)


def test_hostile_requests_harm_nothing(real_service):
    with live_server(real_service) as url:
        campaign = Campaign(url, seed=1)
        asyncio.run(campaign.run(500))
    assert campaign.failures == []
    assert sum(campaign.statuses.values()) >= 450
    assert {200, 400, 404, 405, 415} <= campaign.statuses.keys()
    assert len(campaign.honest) > 4
