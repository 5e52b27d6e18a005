"""Keys, hosts and sites that may use the server."""

import base64

import pytest

from edge_lib.serving.schemas.examples import PICTURE

PROMPT = {"prompt": "hello"}
PNG = base64.b64decode(PICTURE.partition(",")[2])


def test_key_is_needed_for_the_model_alone(open_client):
    client = open_client(api_key="sésame")
    for path in ("/health", "/ready", "/docs", "/openapi.json", "/docs/files/swagger-ui.css", "/"):
        assert client.get(path).status_code == 200, path
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny"),
        ("GET", "/metrics"),
        ("GET", "/search?q=a"),
        ("POST", "/search"),
        ("GET", "/search/pictures/0"),
        ("POST", "/generate"),
        ("POST", "/caption"),
        ("POST", "/embed"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
    ):
        response = client.request(method, path)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), path


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer sésame", 200),
        ("bearer sésame", 200),
        ("Bearer sésam", 401),
        ("Bearer sésame1", 401),
        ("Bearer ", 401),
        ("sésame", 401),
        ("Basic sésame", 401),
    ],
    ids=["key", "lower-case", "short", "long", "empty", "bare", "basic"],
)
def test_key_is_compared_whole(open_client, header, status):
    client = open_client(api_key="sésame")
    headers = {"Authorization": header.encode()}
    assert client.get("/v1/models", headers=headers).status_code == status


def test_wrong_key_is_told_from_a_missing_one(open_client):
    client = open_client(api_key="sesame")
    wrong = client.get("/v1/models", headers={"Authorization": "Bearer sesam"}).json()
    missing = client.get("/v1/models").json()
    assert wrong["error"]["message"] == "wrong API key"
    assert "send the API key" in missing["error"]["message"]


@pytest.mark.parametrize(
    ("host", "settings", "status"),
    [
        ("localhost:8000", {}, 200),
        ("127.0.0.1", {}, 200),
        ("[::1]:8000", {}, 200),
        ("evil.example", {}, 403),
        ("localhost.evil.example", {}, 403),
        ("evil.example:127.0.0.1", {}, 403),
        ("glass.example", {"allow_hosts": ["glass.example"]}, 200),
        ("GLASS.example:443", {"allow_hosts": ["glass.example"]}, 200),
        ("glass.example", {"allow_hosts": ["Glass.Example"]}, 200),
        ("any.example", {"host": "0.0.0.0"}, 200),
        ("evil.example", {"host": "0.0.0.0", "allow_hosts": ["glass.example"]}, 403),
    ],
    ids=[
        "local",
        "v4",
        "v6",
        "other",
        "suffix",
        "port",
        "allowed",
        "case",
        "upper-case",
        "all-networks",
        "named",
    ],
)
def test_other_name_of_a_local_server_is_refused(open_client, host, settings, status):
    response = open_client(**settings).get("/health", headers={"Host": host})
    assert response.status_code == status


def test_browsers_get_headers_of_safety_and_no_cors(client):
    response = client.get("/health", headers={"Origin": "https://evil.example"})
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "script-src 'self';" in response.headers["content-security-policy"]
    assert not [name for name in response.headers if name.startswith("access-control")]
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/generate", headers=preflight).status_code == 405


@pytest.mark.parametrize(
    ("site", "status"),
    [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200), (None, 200)],
    ids=str,
)
def test_page_of_another_site_cannot_use_the_model(client, service, site, status):
    headers, before = {"Sec-Fetch-Site": site} if site else {}, len(service.generator.requests)
    response = client.post("/generate", files={"images": PNG}, data=PROMPT, headers=headers)
    assert response.status_code == status
    assert len(service.generator.requests) == before + (status == 200)
    assert client.get("/docs", headers=headers).status_code == 200
    assert client.get("/search?q=a", headers=headers).status_code == status  # as a picture
    for path in ("/search?q=a", "/v1/models"):  # as a link
        link = headers | {"Sec-Fetch-Mode": "navigate"}
        assert client.get(path, headers=link).status_code == 200
    link = headers | {"Sec-Fetch-Mode": "navigate"}
    assert client.post("/generate", json=PROMPT, headers=link).status_code == status
