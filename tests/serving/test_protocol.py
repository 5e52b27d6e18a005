"""Connections that wait for a request are closed."""

import select
import socket
import time
from contextlib import contextmanager, suppress
from functools import partial

import httpx
import pytest
from serving.fakes import FakeGenerator, fake_service
from serving.live import live_server

from edge_lib.serving.protocol import TimedProtocol

HEADS = {
    "nothing": b"",
    "a part": b"GET /health HT",
    "a second part": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",
}


def closes(connection, seconds):
    """Whether the server ends a connection in this time; answers are read."""
    end = time.monotonic() + seconds
    try:
        while select.select([connection], [], [], max(0, end - time.monotonic()))[0]:
            if not connection.recv(65536):
                return True
    except ConnectionError:
        return True
    return False


@contextmanager
def connected():
    with (
        live_server(fake_service(), http=partial(TimedProtocol, timeout=0.5)) as url,
        socket.create_connection(url.removeprefix("http://").split(":")) as connection,
    ):
        yield connection


@pytest.mark.parametrize("name", HEADS)
def test_connection_without_a_whole_head_is_closed(name):
    with connected() as connection:
        connection.sendall(HEADS[name])
        assert closes(connection, 30)


def test_parts_of_a_head_do_not_lengthen_its_time():
    with connected() as connection, suppress(ConnectionError):
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        for _ in range(400):  # 20 s
            if closes(connection, 0.05):
                return
            connection.sendall(b"X-A: b\r\n")
        pytest.fail("the connection is still open")


def test_connection_is_kept_while_an_answer_takes_longer_than_a_head():
    service = fake_service(generator=FakeGenerator(delay=0.2))
    with (
        live_server(service, http=partial(TimedProtocol, timeout=0.3)) as url,
        httpx.Client(base_url=url) as client,
    ):
        for _ in range(2):
            assert client.post("/generate", json={"prompt": "x"}).status_code == 200
