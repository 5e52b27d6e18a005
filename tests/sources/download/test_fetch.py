"""Fetching from servers that do all that servers do. What becomes of each route of the hostile
server is written beside the route.
"""

import asyncio
import ssl
import subprocess
from dataclasses import replace
from time import monotonic

import pytest
from sources.download.hostile_server import (
    JPEG,
    MAX_BYTES,
    ROUTES,
    HostileServer,
    Route,
    picture,
    public_hostile_server,
    redirect,
)

from edge_lib.config import ConfigError
from edge_lib.sources.download import dial, make_download
from edge_lib.sources.download.content import check_picture
from edge_lib.sources.download.fetch import FetchLimits, fetch, make_client
from edge_lib.sources.download.statuses import STATUSES, TRANSIENT

LIMITS = FetchLimits(max_bytes=MAX_BYTES, allow_private=True, retries=1, backoff=0.01)
ONCE = replace(LIMITS, retries=0)
PUBLIC = replace(LIMITS, allow_private=False)


def get(urls, limits=LIMITS, connections=32, per_host=32, resolve=None):
    """The responses of URLs that are fetched at the same time."""

    async def run():
        async with make_client(limits, connections, per_host, resolve) as client:
            return await asyncio.gather(*(fetch(client, url, limits) for url in urls))

    return asyncio.run(run())


def statuses(urls, *args, **options):
    return [response.status for response in get(urls, *args, **options)]


class FakeResolver:
    """Answers of a name server, by name: in turn, and the last one again and again."""

    def __init__(self, **answers):
        self.answers = {name.replace("_", "."): list(value) for name, value in answers.items()}
        self.names = []

    async def __call__(self, host, port):
        self.names.append(host)
        answers = self.answers.get(host, [[host]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def server():
    with HostileServer() as server:
        yield server


@pytest.fixture
def public_server(monkeypatch):
    with public_hostile_server(monkeypatch) as server:
        yield server


@pytest.fixture(scope="module")
def outcomes():
    """Of all routes: the response, or the picture if there is content."""
    slow = [path for path, route in ROUTES.items() if route.slow]
    quick = [path for path in ROUTES if path not in slow]
    with HostileServer() as server:
        responses = get(map(server.url, quick)) + get(
            map(server.url, slow), replace(ONCE, timeout=0.4)
        )
    return {
        path: response if response.content is None else check_picture(response.content, None, 10**6)
        for path, response in zip(quick + slow, responses, strict=True)
    }


@pytest.mark.parametrize("path", ROUTES)
def test_fetch_of_route(outcomes, path):
    outcome = outcomes[path]
    assert (outcome.status, outcome.error) == (ROUTES[path].status, outcome.error)
    if outcome.status == "ok":
        assert (outcome.width, outcome.height) == ROUTES[path].shape


def test_routes_have_every_status_of_a_server(outcomes):
    refused_before = {"private_address", "not_allowed"}
    assert {route.status for route in ROUTES.values()} == STATUSES.keys() - refused_before
    errors = [outcome.error for outcome in outcomes.values() if outcome.status != "ok"]
    assert all(error and "\n" not in error and len(error) <= 200 for error in errors)


@pytest.mark.parametrize("path", ["picture.jpg", "gzip", "raw-deflate", "excess", "redirect/5"])
def test_fetch_returns_the_bytes(server, path):
    assert get([server.url(path)])[0].content == JPEG


@pytest.mark.parametrize(
    ("path", "requests"),
    [
        ("500", 3),
        ("429-junk", 3),
        ("408", 3),
        ("reset", 3),
        ("short", 3),
        ("500-then-404", 2),
        ("404", 1),
        ("403", 1),
        ("noai", 1),
        ("large", 1),
        ("429-wait", 1),
    ],
)
def test_fetch_retries_what_may_pass(server, path, requests):
    get([server.url(path)], replace(LIMITS, retries=2))
    assert server.requests == [path] * requests


def test_fetch_does_not_retry_a_name_that_does_not_exist():
    resolver = FakeResolver()

    async def resolve(host, port):
        await resolver(host, port)
        raise dial.socket.gaierror(dial.socket.EAI_NONAME, "unknown")

    assert statuses(["http://gone.test/"], resolve=resolve) == ["connection"]
    assert resolver.names == ["gone.test"]


def test_fetch_waits_longer_before_each_retry(server, monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("edge_lib.sources.download.fetch.asyncio.sleep", sleep)
    get([server.url("closed")], replace(LIMITS, retries=3, backoff=1.0))
    assert [0.5 <= wait / 2**n <= 1.5 for n, wait in enumerate(waits)] == [True] * 3


def test_retry_after_holds_up_its_host_only(server):
    """The host that asked for a second is left alone for it; others go on."""
    finished = []

    async def run():
        async with make_client(ONCE, 8, 8, FakeResolver(other_test=[["127.0.0.1"]])) as client:

            async def record(url):
                response = await fetch(client, url, ONCE)
                finished.append((url, response.status, monotonic() - start))

            start = monotonic()
            await record(server.url("429-second"))
            other = f"http://other.test:{server.port}/slow"
            await asyncio.gather(record(server.url("picture.jpg")), record(other))

    asyncio.run(run())
    assert [status for _, status, _ in finished] == ["rate_limited", "ok", "ok"]
    assert "other.test" in finished[1][0]
    assert finished[2][2] >= 1


def test_robots_tag_is_read_before_the_body(server):
    assert statuses([server.url("noai-endless")]) == ["noai"]


def test_robots_tag_can_be_ignored(server):
    paths = ["noai", "noindex", "robots/agent"]
    assert set(statuses(map(server.url, paths), replace(LIMITS, ignore_noai=True))) == {"ok"}


def test_connections_are_bounded(server):
    assert set(statuses([server.url("slow")] * 20, connections=3)) == {"ok"}
    assert 1 < server.most_active <= 3


def test_connections_of_a_host_are_bounded(server):
    resolver = FakeResolver(a_test=[["127.0.0.1"]], b_test=[["127.0.0.1"]])
    urls = [f"http://{host}.test:{server.port}/slow" for host in "ab" * 10]
    assert set(statuses(urls, per_host=2, resolve=resolver)) == {"ok"}
    assert 2 < server.most_active <= 4


def test_connections_are_kept_alive(server):
    urls = [server.url(f"picture/{number}") for number in range(30)]
    assert set(statuses(urls, connections=4)) == {"ok"}
    assert server.connections <= 4


def test_connection_is_kept_after_a_short_answer_without_content(server):
    assert statuses([server.url("404-kept")] * 5, connections=1) == ["gone"] * 5
    assert server.connections == 1


def test_status_is_kept_when_the_answer_stalls(server):
    assert statuses([server.url("404-stall")], replace(ONCE, timeout=0.4)) == ["gone"]


def test_connection_that_the_server_has_closed_is_replaced(server):
    """Without a retry: each of these answers ends with a close that it does not announce."""
    assert statuses([server.url("picture.jpg")] * 9, ONCE, connections=1) == ["ok"] * 9


def test_contact_is_in_the_user_agent(server):
    get([server.url("picture.jpg")], replace(LIMITS, contact="mail@a.com"))
    assert "User-Agent: edge-glass/0.1 (mail@a.com)\r\n" in server.head


def test_contact_is_one_line_of_ascii(tmp_path):
    with pytest.raises(ConfigError, match="contact"):
        make_download("urls", {"out": tmp_path, "list": tmp_path, "contact": "a\r\nCookie: b"})


def test_connection_with_excess_bytes_spoils_no_other_response(server):
    """What follows a response is never taken for the next one."""
    urls = [server.url(path) for path in ("excess-kept", "picture/1", "excess-kept", "picture/2")]
    contents = [response.content for response in get(urls, ONCE, connections=1)]
    assert contents == [JPEG, picture(1), JPEG, picture(2)]


def test_idle_connections_make_room_for_other_hosts(server):
    """The number of connections holds, though each host keeps one alive."""
    answers = {f"h{number}_test": [["127.0.0.1"]] for number in range(9)}

    async def run():
        async with make_client(LIMITS, 2, 2, FakeResolver(**answers)) as client:
            for number in range(9):
                url = f"http://h{number}.test:{server.port}/picture/1"
                assert (await fetch(client, url, LIMITS)).status == "ok"
                assert client._open <= 2
        assert client._open == 0

    asyncio.run(run())
    assert server.connections == 9


def test_cancelled_fetch_gives_its_connection_back(server):
    async def run():
        async with make_client(LIMITS, 2, 2) as client:
            tasks = [
                asyncio.create_task(fetch(client, server.url("stall"), LIMITS)) for _ in range(5)
            ]
            while len(server.requests) < 2:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert client._open == 0
            return await fetch(client, server.url("picture.jpg"), LIMITS)

    assert asyncio.run(run()).status == "ok"


def test_failures_leave_no_connection_open(server):
    async def run():
        async with make_client(replace(ONCE, timeout=0.3), 8, 8) as client:
            paths = ["stall", "reset", "404", "endless", "gzip-false", "header-bomb", "noai"]
            await asyncio.gather(*(fetch(client, server.url(path), ONCE) for path in paths))
            assert client._open == len(client._idle)
        return client._open

    assert asyncio.run(run()) == 0


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:{port}/picture.jpg",
        "http://inside.test:{port}/picture.jpg",
        "http://0x7f000001:{port}/",
        "http://2130706433:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[64:ff9b::7f00:1]/",
        "http://localhost:{port}/",
        "http://localhost.:{port}/",
        "http://0.0.0.0:{port}/",
    ],
)
def test_redirect_to_private_address_is_refused(public_server, monkeypatch, target):
    status = "bad_url" if "0177" in target else "private_address"
    location = target.format(port=public_server.port)
    monkeypatch.setitem(ROUTES, "inside", Route(status, redirect(location)))
    names = FakeResolver(inside_test=[["127.0.0.1"]])
    system = dial._look_up

    async def resolve(host, port):
        return await names(host, port) if host.endswith(".test") else system(host, port, 0)

    url = public_server.url("inside")
    assert statuses([url, location], PUBLIC, resolve=resolve) == [status] * 2
    assert public_server.requests == ["inside"]


def test_host_is_dialled_at_its_public_addresses_only(public_server):
    resolver = FakeResolver(mixed_test=[["127.0.0.1", "10.0.0.1", "127.0.0.2"]])
    url = f"http://mixed.test:{public_server.port}/picture.jpg"
    assert statuses([url], PUBLIC, resolve=resolver) == ["ok"]


def test_host_is_resolved_once_for_a_connection(public_server):
    """A name that turns from a public address to a private one is dialled as it was checked."""
    resolver = FakeResolver(rebound_test=[["127.0.0.2"], ["127.0.0.1"]])
    url = f"http://rebound.test:{public_server.port}/404"  # closes the connection
    for expected in ("gone", "private_address"):
        assert statuses([url], PUBLIC, resolve=resolver) == [expected]
    assert resolver.names == ["rebound.test"] * 2


def test_next_address_of_a_host_is_dialled_when_one_refuses(server):
    resolver = FakeResolver(two_test=[["127.0.0.9", "127.0.0.1"]])
    url = f"http://two.test:{server.port}/picture.jpg"
    assert statuses([url], resolve=resolver) == ["ok"]


def test_proxies_of_the_environment_are_ignored(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert statuses([server.url("picture.jpg")]) == ["ok"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate and key for the name tls.test."""
    path = tmp_path_factory.mktemp("tls") / "tls.pem"
    names = ["-subj", "/CN=tls.test", "-addext", "subjectAltName=DNS:tls.test"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", path, "-out", f"{path}.crt"]
    try:
        subprocess.run(
            ["openssl", "req", "-x509", *key, *names, *files], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    return f"{path}.crt", path


@pytest.mark.parametrize(
    ("trusted", "host", "status"),
    [
        (True, "tls.test", "ok"),
        (True, "other.test", "connection"),
        (False, "tls.test", "connection"),
    ],
    ids=["trusted", "another name", "not trusted"],
)
def test_certificates_are_verified(certificate, monkeypatch, trusted, host, status):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    if trusted:
        client_context = ssl.create_default_context(cafile=certificate[0])
        monkeypatch.setattr(dial, "_tls", lambda: client_context)
    resolver = FakeResolver(tls_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    with HostileServer(ssl=context) as server:
        urls = [f"https://{host}:{server.port}/picture/{number}" for number in range(3)]
        assert statuses(urls, connections=1, resolve=resolver) == [status] * 3
        assert len(server.requests) == (3 if status == "ok" else 0)


def test_tls_with_a_server_that_has_none_fails(server):
    urls = [server.url("picture.jpg").replace("http:", "https:")]
    assert statuses(urls, replace(ONCE, timeout=0.4)) == ["timeout"]  # it waits for a request


def test_name_that_is_not_resolved_in_time_fails():
    async def resolve(host, port):
        await asyncio.sleep(3600)

    (response,) = get(["http://a.test/"], replace(ONCE, timeout=0.2), resolve=resolve)
    assert (response.status, response.error) == ("timeout", "a.test is not resolved in time")


def test_address_that_refuses_fails():
    with HostileServer() as server:
        url = server.url("picture.jpg")
    (response,) = get([url], ONCE)
    assert response.status == "connection"
    assert "Connect call failed" in response.error


def test_transient_statuses_exist():
    assert STATUSES.keys() > TRANSIENT
