"""A server of pictures, and downloads whose processes are forks of one that has the library."""

import pytest
from url_server import UrlServer

from edge_lib.sources.download import url_processes


@pytest.fixture
def server():
    with UrlServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _workers_fork_from_a_server(monkeypatch):
    monkeypatch.setattr(url_processes, "START_METHOD", "forkserver")
