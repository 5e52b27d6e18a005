"""Connections that wait for a request are closed."""

import socket
import time
from functools import partial

import httpx
import pytest
from serving.fakes import FakeGenerator, fake_service
from serving.live import live_server

from edge_lib.serving.protocol import TimedProtocol

HEADS = {
    "nothing": [],
    "a part": [b"GET /health HT"],
    "parts": [b"GET /health HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 3],
    "a second part": [b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /hea"],
}


@pytest.mark.parametrize("name", HEADS)
def test_connection_without_a_whole_head_is_closed(name):
    http = partial(TimedProtocol, timeout=0.5)
    with live_server(fake_service(), http=http) as url:
        address = url.removeprefix("http://").split(":")
        with socket.create_connection(address) as connection:
            connection.settimeout(4)
            for part in HEADS[name]:
                connection.sendall(part)
                time.sleep(0.1)
            while connection.recv(65536):  # an answer, then the end
                pass


def test_connection_is_kept_while_an_answer_takes_longer_than_a_head():
    service = fake_service(generator=FakeGenerator(delay=0.2))
    with (
        live_server(service, http=partial(TimedProtocol, timeout=0.3)) as url,
        httpx.Client(base_url=url) as client,
    ):
        for _ in range(2):
            assert client.post("/generate", json={"prompt": "x"}).status_code == 200
