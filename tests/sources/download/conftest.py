"""A server of pictures, and downloads whose processes are forks of one that has the library."""

from multiprocessing import forkserver

import pytest
from url_server import UrlServer

from edge_lib.sources.download import url_processes


@pytest.fixture
def server():
    with UrlServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _workers_fork_from_a_server(monkeypatch):
    forkserver.ensure_running()  # a download would start it with interrupts blocked
    monkeypatch.setattr(url_processes, "START_METHOD", "forkserver")
