"""URLs of clients: allowed hosts only, public addresses only, at every redirect.

The cases of vLLM's CVE-2025-6242 (hosts that were not checked after a redirect) and CVE-2026-24779
(the host that was checked is not the one that was dialled).
"""

import asyncio

import httpx
import pytest
from serving.fakes import fake_service
from serving.live import live_server
from sources.download.hostile_server import (
    JPEG,
    ROUTES,
    Route,
    public_hostile_server,
    redirect,
    reply,
)

from edge_lib.config import ConfigError
from edge_lib.config.flags import parse_section
from edge_lib.serving import remote
from edge_lib.serving.errors import ApiError
from edge_lib.serving.media import load_media
from edge_lib.serving.remote import Fetcher
from edge_lib.serving.settings import ServeSettings
from edge_lib.sources.download import dial
from edge_lib.sources.download.statuses import STATUSES


@pytest.fixture
def server(monkeypatch):
    with public_hostile_server(monkeypatch) as server:
        yield server


class Names:
    """A name server: pictures.test and evil.test are the server, inside.test is private."""

    def __init__(self):
        self.resolved = []

    async def __call__(self, host, port):
        self.resolved.append(host)
        if host in ("pictures.test", "evil.test"):
            return ["127.0.0.2"]
        return ["127.0.0.1"] if host == "inside.test" else dial._look_up(host, port, 0)


def fetch(url, hosts, names=None, **limits):
    settings = ServeSettings(allow_urls=hosts, **limits)

    async def run():
        async with Fetcher(settings, names or Names()) as fetcher:
            return (await load_media("image", url, settings, fetcher, "images.3")).content

    return asyncio.run(run())


def refusal(*args, **options):
    with pytest.raises(ApiError) as info:
        fetch(*args, **options)
    assert (info.value.status, info.value.param) == (400, "images.3")
    return info.value.code


def test_url_of_an_allowed_host_is_fetched(server):
    host = f"Pictures.test:{server.port}"
    assert fetch(f"http://pictures.test:{server.port}/picture.jpg", [host]) == JPEG
    assert fetch(f"HTTP://PICTURES.test.:{server.port}/redirect/3", [host]) == JPEG


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.test:{port}/picture.jpg",
        "http://pictures.test/picture.jpg",
        "https://pictures.test:{port}@evil.test/",
        "http://pictures.test:{port}@evil.test:{port}/",
        "http://evil.test:{port}\\@pictures.test:{port}/picture.jpg",
        "http://pictures.test:{port}\\@evil.test:{port}/picture.jpg",
        "http://evil.test:{port}/\\@pictures.test:{port}/picture.jpg",
        "http://evil.test:{port}#@pictures.test:{port}/picture.jpg",
        "http://evil.test:{port}?@pictures.test:{port}/picture.jpg",
        "http://pictures.test.evil.test:{port}/",
        "http://evil.test:{port}/pictures.test:{port}",
        "http://pictures.test:{port}:{port}/",
        "http://pictures.test%2eevil.test:{port}/",
        "http://pictures.test%00.evil.test:{port}/",
        "http:///pictures.test:{port}/",
        "http://[pictures.test]:{port}/",
        "http://127.0.0.2:{port}/picture.jpg",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706434:{port}/",
    ],
)
def test_url_of_another_host_is_neither_resolved_nor_fetched(server, url):
    names = Names()
    code = refusal(url.format(port=server.port), [f"pictures.test:{server.port}"], names)
    assert code in ("url_not_allowed", "fetch_failed")
    assert server.requests == names.resolved == []


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://evil.test:{port}/picture.jpg", "url_not_allowed"),
        ("//evil.test:{port}/picture.jpg", "url_not_allowed"),
        ("http://pictures.test/picture.jpg", "url_not_allowed"),
        ("https://pictures.test:{port}@evil.test:{port}/", "fetch_failed"),
        ("http://127.0.0.2:{port}/picture.jpg", "url_not_allowed"),
        ("http://inside.test:{port}/picture.jpg", "fetch_failed"),
        ("file:///etc/passwd", "fetch_failed"),
    ],
)
def test_url_of_a_redirect_is_checked(server, monkeypatch, target, code):
    location = target.format(port=server.port)
    monkeypatch.setitem(ROUTES, "away", Route("ok", redirect(location)))
    hosts = [f"pictures.test:{server.port}", f"inside.test:{server.port}"]
    assert refusal(f"http://pictures.test:{server.port}/away", hosts) == code
    assert server.requests == ["away"]


def test_url_of_an_allowed_name_with_a_private_address_is_refused(server):
    hosts = [f"inside.test:{server.port}", f"127.0.0.1:{server.port}"]
    for host in hosts:
        assert refusal(f"http://{host}/picture.jpg", hosts) == "fetch_failed"
    assert server.requests == []


def test_url_of_a_name_that_turns_private_is_dialled_as_checked(server):
    answers = [["127.0.0.2"], ["127.0.0.1"]]

    async def rebind(host, port):
        return answers.pop(0)

    host = f"pictures.test:{server.port}"
    assert fetch(f"http://{host}/picture.jpg", [host], rebind) == JPEG
    assert answers == [["127.0.0.1"]]


@pytest.mark.parametrize("path", ["large", "endless", "gzip-bomb", "404", "500", "redirect/6"])
def test_url_that_gives_nothing_is_an_error_of_the_client(server, path):
    host = f"pictures.test:{server.port}"
    assert refusal(f"http://{host}/{path}", [host], max_body_bytes=1_000_000) == "fetch_failed"


def test_url_errors_hold_no_address(server):
    with pytest.raises(ApiError) as info:
        fetch("http://pictures.test:1/", ["pictures.test:1"])
    assert info.value.message == (
        "the URL gives nothing: name not resolved, refused, reset, TLS, HTTP, or a wrong length"
    )


def test_url_of_a_host_that_asks_for_a_pause_is_given_up(server, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    host = f"pictures.test:{server.port}"
    wait = Route("rate_limited", reply(b"", 429, "Retry-After: 50"))
    monkeypatch.setitem(ROUTES, "wait", wait)

    async def run():
        async with Fetcher(ServeSettings(allow_urls=[host]), Names()) as fetcher:
            for path in ("wait", "picture.jpg"):
                with pytest.raises(ApiError) as info:
                    await fetcher.fetch(f"http://{host}/{path}", "images.3")
        return info.value

    error = asyncio.run(run())
    assert (error.status, error.code, error.param) == (400, "fetch_failed", "images.3")
    assert STATUSES["timeout"] in error.message
    assert server.requests == ["wait"]


def test_url_is_fetched_for_a_request(server):
    """Through the whole server: an allowed one, another host, and a redirect to it."""
    host = f"127.0.0.2:{server.port}"
    with live_server(fake_service(ServeSettings(allow_urls=[host]))) as url:
        ask = {"prompt": "what is it?"}

        def post(picture):
            return httpx.post(f"{url}/generate", json=ask | {"images": [picture]})

        assert post(f"http://{host}/picture.jpg").status_code == 200
        error = post(f"http://127.0.0.1:{server.port}/picture.jpg").json()["error"]
        assert (error["code"], error["param"]) == ("url_not_allowed", "images.0")
        error = post(f"http://{host}/404").json()["error"]
        assert (error["code"], error["param"]) == ("fetch_failed", "images.0")
    assert server.requests == ["picture.jpg", "404"]


@pytest.mark.parametrize(
    ("host", "url", "code"),
    [
        ("pictures.test:443", "https://pictures.test/", "fetch_failed"),
        ("pictures.test:80", "http://pictures.test:80/", "fetch_failed"),
        ("pictures.test", "https://pictures.test:443/", "fetch_failed"),
        ("pictures.test:443", "http://pictures.test/", "url_not_allowed"),
        ("pictures.test:80", "https://pictures.test/", "url_not_allowed"),
    ],
)
def test_allowed_host_may_have_the_port_of_its_scheme(server, host, url, code):
    """What is allowed is dialled, where nothing listens."""
    assert refusal(url, [host]) == code


@pytest.mark.parametrize(
    ("limits", "status"),
    [({"max_body_bytes": 3_000_000}, 413), ({"max_bodies_mb": 3}, 429)],
    ids=["request", "all"],
)
def test_files_of_urls_count_as_bodies(server, monkeypatch, limits, status):
    """Until the request is answered."""
    jpeg = JPEG + bytes(900_000)
    monkeypatch.setitem(ROUTES, "padded", Route("ok", reply(jpeg)))
    host = f"127.0.0.2:{server.port}"
    with live_server(fake_service(ServeSettings(allow_urls=[host], **limits))) as url:

        def post(count):
            body = {"prompt": "?", "images": [f"http://{host}/padded"] * count}
            return httpx.post(f"{url}/generate", json=body)

        assert [post(n).status_code for n in (3, 4, 3)] == [200, status, 200]


@pytest.mark.parametrize("host", ["https://example.org", "*.example.org", "a/b", "", "a:b", "a b"])
def test_allowed_hosts_are_names_with_or_without_a_port(host):
    with pytest.raises(ConfigError, match="allow_urls"):
        parse_section("serve", ServeSettings, {"allow_urls": [host]})
