"""Limits of requests: taken at the limit, refused above it."""

import asyncio
import time

import httpx
import pytest
from serving.fakes import fake_service
from serving.live import live_server, send_begin

from edge_lib.serving.bodies import MAX_COUNTS
from edge_lib.serving.errors import ApiError
from edge_lib.serving.middleware import Bodies, Exchange
from edge_lib.serving.schemas.examples import PICTURE
from edge_lib.serving.settings import ServeSettings

LIMITS = {
    "max_body_bytes": 20_000,
    "max_bodies_mb": 1,
    "max_items": 3,
    "max_images": 2,
    "max_tokens": 10,
    "max_n": 2,
    "max_stop": 1,
    "max_hits": 5,
}
JSON = {"Content-Type": "application/json"}
USER = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def url():
    with live_server(fake_service(ServeSettings(**LIMITS))) as url:
        yield url


def error_of(response):
    assert response.status_code in (400, 413), response.text
    return response.json()["error"]


@pytest.mark.parametrize(
    ("path", "allowed", "refused", "param"),
    [
        ("/generate", {"prompt": "x", "n": 2}, {"prompt": "x", "n": 3}, "n"),
        ("/generate", {"prompt": "x", "max_tokens": 10}, {"prompt": "x", "max_tokens": 11}, None),
        ("/generate", {"prompt": "x", "stop": ["a"]}, {"prompt": "x", "stop": ["a", "b"]}, None),
        (
            "/generate",
            {"prompt": "x", "images": [PICTURE] * 2},
            {"prompt": "x", "images": [PICTURE] * 3},
            "images",
        ),
        ("/generate", [{"prompt": "x"}] * 3, [{"prompt": "x"}] * 4, ""),
        ("/caption", [{"image": PICTURE}] * 3, [{"image": PICTURE}] * 4, ""),
        ("/embed", {"texts": ["x"] * 3}, {"texts": ["x"] * 4}, "texts"),
        (
            "/embed",
            {"texts": ["x"] * 2, "images": PICTURE},
            {"texts": ["x"] * 2, "images": [PICTURE] * 2},
            "",
        ),
        ("/v1/embeddings", {"input": ["x"] * 3}, {"input": ["x"] * 4}, "input"),
        (
            "/v1/chat/completions",
            {"messages": USER, "max_completion_tokens": 10},
            {"messages": USER, "max_completion_tokens": 11},
            "max_completion_tokens",
        ),
        ("/search", {"texts": "x", "k": 5}, {"texts": "x", "k": 6}, "k"),
    ],
    ids=[
        "n",
        "max_tokens",
        "stop",
        "images",
        "prompts",
        "captions",
        "texts",
        "items",
        "inputs",
        "max_completion_tokens",
        "hits",
    ],
)
def test_limit_is_taken_and_more_is_refused(url, path, allowed, refused, param):
    assert httpx.post(url + path, json=allowed).status_code == 200
    error = error_of(httpx.post(url + path, json=refused))
    if param is None:
        [param] = refused.keys() - {"prompt"}
    assert error["param"] == (param or None)


def images(count):
    contents = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}
    return [contents] * count


def test_pictures_of_all_messages_are_counted(url):
    chat = f"{url}/v1/chat/completions"
    assert httpx.post(chat, json={"messages": images(2)}).status_code == 200
    error = error_of(httpx.post(chat, json={"messages": images(3)}))
    assert "at most 2" in error["message"]


def padded(size):
    head, tail = b'{"prompt": "', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


def test_body_of_the_largest_size_is_taken_and_a_larger_one_refused(url):
    limit = LIMITS["max_body_bytes"]
    response = httpx.post(f"{url}/generate", content=padded(limit), headers=JSON)
    assert response.status_code == 200
    for content in (padded(limit + 1), iter([padded(limit + 1)])):  # of known and unknown length
        response = httpx.post(f"{url}/generate", content=content, headers=JSON)
        assert (response.status_code, error_of(response)["code"]) == (413, "too_large")


def test_uploaded_files_count_as_the_body(url):
    files = {"images": ("a.png", b"x" * LIMITS["max_body_bytes"])}
    response = httpx.post(f"{url}/generate", data={"prompt": "x"}, files=files)
    assert (response.status_code, error_of(response)["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("name", "head", "character", "tail"),
    [
        ("values", "[", "0,", "0]"),
        ("escapes", '["', r"\n", '"]'),
        ("bytes that are not ASCII", '["', "é", '"]'),
    ],
    ids=["values", "escapes", "unicode"],
)
def test_body_that_takes_long_to_parse_is_refused(name, head, character, tail):
    count = MAX_COUNTS[name] // (2 if character == "é" else 1) - (name == "values")  # the bracket
    with live_server(fake_service()) as url:
        responses = [
            httpx.post(f"{url}/generate", content=head + character * number + tail, headers=JSON)
            for number in (count, count + 1)
        ]
    assert [response.status_code for response in responses] == [400, 413]
    assert name in responses[1].json()["error"]["message"]


def test_body_of_a_route_without_one_is_limited(url):
    """It is received only to see whether the client leaves."""
    with send_begin(url, LIMITS["max_body_bytes"] + 1, b"", "GET /search?q=a") as connection:
        connection.settimeout(5)
        answer = connection.recv(65536)
    assert b" 413 " in answer.splitlines()[0]


def test_slow_body_is_given_up():
    settings = ServeSettings(body_timeout=0.4)
    with (
        live_server(fake_service(settings)) as url,
        send_begin(url, 100, b"{") as connection,
    ):
        connection.settimeout(30)
        time.sleep(settings.body_timeout / 2)
        connection.sendall(b" ")  # the time is that of the whole body
        answer = connection.recv(65536)
    assert b" 408 " in answer.splitlines()[0]


def post_padded(url, size):
    return httpx.post(f"{url}/generate", content=padded(size), headers=JSON)


def until(status, url, size):
    """The first response with this status, of many tries."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        response = post_padded(url, size)
        if response.status_code == status:
            return response
    raise AssertionError(response.text)


def test_bodies_of_all_requests_are_bounded():
    settings = ServeSettings(max_body_bytes=900_000, max_bodies_mb=1, body_timeout=5)
    with live_server(fake_service(settings)) as url:
        with send_begin(url, 800_000, b" " * 700_000):
            response = until(429, url, 400_000)
            assert response.headers["retry-after"] == "1"
        assert until(200, url, 400_000)  # as the first has left


def test_body_that_has_come_is_read_after_the_time_for_it():
    """Such as one that came while the process did nothing for long."""
    parts = [{"type": "http.request", "body": b"ab", "more_body": True}]

    async def receive():
        if not parts:
            await asyncio.sleep(10)
        return parts.pop()

    async def run():
        settings, scope = ServeSettings(body_timeout=0.01), {"type": "http", "headers": []}
        exchange = Exchange(scope, receive, None, settings, Bodies())
        exchange.start -= 1
        assert (await exchange.receive())["body"] == b"ab"
        with pytest.raises(ApiError, match="did not arrive"):
            await exchange.receive()

    asyncio.run(run())
