"""The app: errors of one shape, keys, loading, clients that leave, metrics, headers."""

import base64
import json
import threading
from inspect import iscoroutinefunction

import httpx
import pytest
from fastapi.testclient import TestClient
from serving.fakes import FakeGenerator, fake_service
from serving.live import live_server, send_begin
from serving.waiting import until

from edge_lib.serving.app import create_app
from edge_lib.serving.errors import ApiError
from edge_lib.serving.routes import dependencies
from edge_lib.serving.schemas.examples import PICTURE
from edge_lib.serving.settings import ServeSettings

LOCAL = "http://localhost"
PROMPT = {"prompt": "hello"}
PNG = base64.b64decode(PICTURE.partition(",")[2])
FORM = "multipart/form-data; boundary=x"


def app_of(service=None, load=None, **settings):
    settings = ServeSettings(**settings)
    service = service or fake_service(settings)
    return create_app(load or (lambda: service), settings, service.metrics)


@pytest.fixture
def open_client():
    """Opens an app; waits until it is ready."""

    def open_app(service=None, **settings):
        client = TestClient(app_of(service, **settings), base_url=LOCAL)
        client.__enter__()
        clients.append(client)
        until(lambda: client.app.state.service)
        return client

    clients = []
    yield open_app
    for client in clients:
        client.__exit__(None, None, None)


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("GET", "/generate", {}, 405, "method_not_allowed"),
        ("POST", "/generate", {"content": b"{}"}, 415, "unsupported_media_type"),
        ("POST", "/generate", {"data": PROMPT}, 415, "unsupported_media_type"),
        ("POST", "/generate", {"json": {}}, 400, "invalid_request"),
        ("POST", "/generate", {"json": []}, 400, "invalid_request"),
        ("POST", "/generate", {"json": "hello"}, 400, "invalid_request"),
        ("POST", "/generate", {"json": {"prompt": "a", "messages": []}}, 400, "invalid_request"),
        ("POST", "/embed", {"json": {}}, 400, "invalid_request"),
        ("GET", "/search", {}, 400, "invalid_request"),
        ("GET", "/search?q=a&dim=3", {}, 400, "invalid_request"),
        ("GET", "/search?q=a&modality=video", {}, 400, "invalid_request"),
        ("GET", "/search/pictures/1", {}, 404, "not_found"),
        ("GET", "/search/pictures/-1", {}, 404, "not_found"),
        ("GET", "/page/../app.py", {}, 404, "not_found"),
        ("GET", "/page/%2e%2e/app.py", {}, 404, "not_found"),
    ],
)
def test_errors_have_one_shape(client, method, path, options, status, code):
    response = client.request(method, path, **options)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error.keys() == {"message", "type", "code", "param", "request_id"}
    assert error["type"] == "invalid_request_error"
    assert error["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"prompt": NaN}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xff"}',
        b'{"n": ' + b"1" * 5000 + b"}",
        "{}".encode("utf-16"),
        b'{"prompt": "a"} {}',
    ],
    ids=["empty", "open", "nested", "nan", "surrogate", "utf-8", "digits", "utf-16", "two"],
)
def test_damaged_json_is_told(client, content):
    response = client.post("/generate", content=content, headers={"Content-Type": "text/x+json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"--x\r\n", "multipart/form-data"),
        (b"no boundary in it", FORM),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", FORM),
        (b"--x\r\nContent-Disposition: form-data; name=prompt\r\n\r\na", FORM),
        (b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\na\r\n' * 200 + b"--x--", FORM),
        (b'--x\r\nContent-Disposition: form-data; name="messages"\r\n\r\n[{\r\n--x--', FORM),
    ],
    ids=["no-boundary", "no-part", "no-name", "cut", "fields", "messages"],
)
def test_damaged_form_is_told(client, content, content_type):
    response = client.post("/generate", content=content, headers={"Content-Type": content_type})
    assert response.status_code == 400
    assert response.json()["error"].keys() >= {"message", "request_id"}


@pytest.mark.parametrize("charset", ["undefined", "unicode_escape", "utf-16", '"latin-1"', "", "x"])
def test_form_of_another_charset_is_refused(client, charset):
    part = b'--x\r\nContent-Disposition: form-data; name="messages"\r\n\r\n"\\ud800"\r\n--x--\r\n'
    headers = {"Content-Type": f"{FORM}; charset={charset}"}
    response = client.post("/generate", content=part, headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf8"'])
def test_form_of_utf_8_may_name_it(client, service, charset):
    part = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xc3\xa9?\r\n--x--\r\n'
    headers = {"Content-Type": f"{FORM}; charset={charset}"}
    assert client.post("/generate", content=part, headers=headers).status_code == 200
    assert service.generator.requests[-1].messages == "é?"


def test_bad_item_of_a_list_is_named(client):
    items = [PROMPT, {"prompt": "a", "images": [PICTURE, "data:image/png;base64,AAAA"]}]
    error = client.post("/generate", json=items).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_image", "1.images.1")
    error = client.post("/generate", json=[PROMPT, {"prompt": "a", "n": 0}]).json()["error"]
    assert error["param"] == "1.n"


WRONG = "data:image/png;base64,AAAA"
CHAT_PART = {"type": "image_url", "image_url": {}}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/caption", {"image": WRONG}, "image"),
        ("/caption", [{"image": PICTURE}, {"image": WRONG}], "1.image"),
        ("/caption", {"image": 5}, "image"),
        ("/generate", {"prompt": "a", "images": [PICTURE, 5]}, "images.1"),
        ("/generate", [PROMPT, {"prompt": "a", "audio": [[]]}], "1.audio.0"),
        ("/generate", {"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages.0.x"),
        ("/embed", {"texts": ["a"], "images": [PICTURE, WRONG]}, "images.1"),
        ("/embed", {"texts": ["a", 5]}, "texts.1"),
        ("/search", {"images": [WRONG]}, "images.0"),
        ("/v1/embeddings", {"input": ["a", {"type": "text"}]}, "input.1.text"),
        ("/v1/embeddings", {"input": [{"type": "text", "text": "a", "x": 1}]}, "input.0.x"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [CHAT_PART]}]},
            "messages.0.content.0.image_url.url",
        ),
    ],
    ids=[
        "caption",
        "captions",
        "number",
        "image",
        "list",
        "message",
        "file",
        "text",
        "query",
        "no-text",
        "unknown",
        "url",
    ],
)
def test_param_is_the_place_in_the_body(client, path, body, param):
    response = client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(("query", "param"), [("q=", "q"), ("q=a&k=0", "k"), ("q=a&k=x", "k")])
def test_param_of_a_search_is_that_of_the_url(client, query, param):
    response = client.get(f"/search?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_failure_tells_a_client_nothing_of_its_cause(open_client, caplog):
    client = open_client(fake_service(generator=FakeGenerator(error=OSError("/secret/path"))))
    response = client.post("/generate", json=PROMPT)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert "/secret/path" in caplog.text
    assert response.json()["error"]["request_id"] in caplog.text


def test_request_id_of_the_client_is_kept_if_it_is_harmless(client):
    for given, kept in (("my-id_1.2", True), ("x" * 64, True), ("x" * 65, False), ("a b", False)):
        response = client.get("/health", headers={"X-Request-Id": given})
        assert (response.headers["x-request-id"] == given) is kept


# --- keys and hosts --------------------------------------------------------------------------


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


# --- loading ---------------------------------------------------------------------------------


def test_health_answers_while_the_model_loads():
    gate, service = threading.Event(), fake_service()

    def load():
        gate.wait(10)
        return service

    with TestClient(app_of(service, load), base_url=LOCAL) as client:
        assert client.get("/health").json() == {"status": "ok"}
        for method, path in (("GET", "/ready"), ("GET", "/v1/models"), ("POST", "/embed")):
            response = client.request(method, path)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1"), path
            assert response.json()["error"]["code"] == "loading"
        assert "edge_glass_ready 0.0" in client.get("/metrics").text
        gate.set()
        until(lambda: client.get("/ready").status_code == 200)
        assert client.get("/ready").json() == {"status": "ready", "model": "tiny"}
        assert "edge_glass_ready 1.0" in client.get("/metrics").text
        assert service.generator.started
        assert service.embedder.started
    assert service.generator.stopped
    assert service.embedder.stopped


def test_model_that_cannot_be_loaded_is_reported():
    errors = []

    def load():
        raise OSError("no model")

    app = app_of(load=load)
    app.state.on_failure = errors.append
    with TestClient(app, base_url=LOCAL):
        until(lambda: errors)
    assert str(errors[0]) == "no model"


@pytest.mark.parametrize(
    ("part", "requests"),
    [
        ("generator", [("/generate", PROMPT), ("/caption", {"image": PICTURE})]),
        ("index", [("/search", {"texts": "a"})]),
    ],
    ids=["generator", "index"],
)
def test_task_that_the_model_does_not_have_is_not_found(open_client, part, requests):
    client = open_client(fake_service(**{part: None}))
    for path, content in requests:
        response = client.post(path, json=content)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "no_such_task")


def test_dependencies_need_no_thread():
    """Each would wait for the model's thread."""
    for function in (
        dependencies.authorize,
        dependencies.check_site,
        dependencies.loaded_service,
    ):
        assert iscoroutinefunction(function)


# --- clients that leave ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", PROMPT),
        ("/generate", [PROMPT, PROMPT]),
        ("/caption", {"image": PICTURE}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ],
    ids=["generate", "list", "caption", "chat"],
)
def test_client_that_leaves_is_dropped(path, body):
    generator = FakeGenerator(words=["a"] * 1_000_000, delay=0.01)
    service = fake_service(generator=generator)
    content, count = json.dumps(body).encode(), len(body) if isinstance(body, list) else 1
    with live_server(service) as url:
        with send_begin(url, len(content), content, f"POST {path}"):
            until(lambda: len(generator.streams) == count)
            assert not any(stream.cancelled for stream in generator.streams)
        until(lambda: all(stream.cancelled for stream in generator.streams))
        until(lambda: f'route="{path}",status="499"' in httpx.get(f"{url}/metrics").text)


def test_client_that_leaves_a_stream_is_dropped():
    generator = FakeGenerator(words=["a"] * 1000, delay=0.01)
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "n": 2}
    with live_server(fake_service(generator=generator)) as url:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
        until(lambda: [stream.cancelled for stream in generator.streams] == [True, True])


def test_answers_that_run_are_finished_when_the_server_stops():
    generator = FakeGenerator(words=["a"] * 20, delay=0.02)
    results = []
    with live_server(fake_service(generator=generator)) as url:
        post = lambda: results.append(httpx.post(f"{url}/generate", json=PROMPT))  # noqa: E731
        thread = threading.Thread(target=post)
        thread.start()
        until(lambda: generator.streams)
    thread.join()
    assert results[0].json()["choices"][0]["text"] == "a" * 20


# --- generate --------------------------------------------------------------------------------


def test_generate_takes_a_list_and_keeps_its_order(client, service):
    items = [{"prompt": "a", "max_tokens": 1}, {"prompt": "b", "n": 2}, {"prompt": "c"}]
    results = client.post("/generate", json=items).json()
    texts = [[choice["text"] for choice in result["choices"]] for result in results]
    assert texts == [["a"], ["a red three"] * 2, ["a red three"]]
    assert results[1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}


def test_generate_takes_a_form_with_files(client, service, clip):
    files = [("images", ("a.png", PNG)), ("images", ("b.png", PNG)), ("audio", ("c.wav", clip))]
    data = {"prompt": "<image><audio>?", "stop": ["x", "y"], "temperature": "0.5", "n": "2"}
    response = client.post("/generate", data=data, files=files)
    assert len(response.json()["choices"]) == 2, response.text
    request = service.generator.requests[-1]
    assert request.messages == "<image><audio>?"
    assert [item.content for item in request.media["image"]] == [PNG, PNG]
    assert request.media["audio"][0].content == clip
    assert (request.sampling.temperature, request.sampling.stop) == (0.5, ("x", "y"))


def test_generate_takes_messages(client, service):
    messages = [{"role": "user", "content": "<image>\nhello"}]
    client.post("/generate", json={"messages": messages, "images": PICTURE})
    assert service.generator.requests[-1].messages == messages
    files = {"images": ("a.png", PNG)}
    data = {"messages": '[{"role": "user", "content": "<image>\\nhello"}]'}
    assert client.post("/generate", data=data, files=files).status_code == 200
    assert service.generator.requests[-1].messages == messages


def test_caption_asks_for_a_description(client, service):
    assert client.post("/caption", json={"image": PICTURE}).json()["choices"][0]["text"]
    request = service.generator.requests[-1]
    assert (request.messages, len(request.media["image"])) == ("Describe the image.", 1)
    client.post("/caption", files={"image": ("a.png", PNG)}, data={"prompt": "What is it?"})
    request = service.generator.requests[-1]
    assert (request.messages, request.media["image"][0].content) == ("What is it?", PNG)


# --- embed and search ------------------------------------------------------------------------


def test_embed_keeps_kinds_and_order_apart(client):
    body = {"texts": ["ab", "abc"], "images": PICTURE, "normalize": False}
    answer = client.post("/embed", json=body).json()
    assert answer["texts"] == [[2, 1, 2, 3], [3, 1, 2, 3]]
    assert answer["images"] == [[220, 30, 30, 1]]
    assert (answer["dim"], answer["audio"]) == (4, [])


def test_embed_takes_files(client):
    files = [("images", ("a.png", PNG))]
    answer = client.post("/embed", files=files, data={"dim": "2", "normalize": "false"}).json()
    assert answer["images"] == [[220, 30]]


def test_search_gives_hits_and_their_pictures(client, service):
    hits = client.get("/search", params={"q": "abc", "k": 2, "dim": 2}).json()["hits"]
    assert [(hit["row"], hit["picture"]) for hit in hits] == [(0, "/search/pictures/0"), (1, None)]
    vector, *rest = service.index.queries[-1]
    assert (vector[0], *rest) == (3, 2, 2, None)
    assert client.get(hits[0]["picture"]).headers["content-type"] == "image/jpeg"


def test_search_takes_one_item(client, service):
    client.post("/search", json={"images": PICTURE, "modality": "vision"})
    assert service.index.queries[-1][0].tolist() == [220, 30, 30, 1]
    client.post("/search", files={"images": ("a.png", PNG)})
    assert service.index.queries[-1][0].tolist() == [220, 30, 30, 1]
    for body in ({}, {"texts": "a", "images": PICTURE}, {"texts": ["a", "b"]}):
        assert client.post("/search", json=body).status_code == 400


# --- metrics ---------------------------------------------------------------------------------


def test_metrics_count_requests_by_route_and_status(open_client):
    client = open_client()
    client.post("/generate", json=PROMPT)
    client.post("/generate", json={})
    client.get("/search/pictures/1")
    client.get("/anything/" + "x" * 50)
    client.request("BREW", "/health")
    text = client.get("/metrics").text
    for labels in (
        'method="POST",route="/generate",status="200"',
        'method="POST",route="/generate",status="400"',
        'method="GET",route="/search/pictures/{row}",status="404"',
        'method="GET",route="other",status="404"',
        'method="other",route="/health",status="405"',
    ):
        assert f"edge_glass_requests_total{{{labels}}} 1.0" in text, text
    assert "xxxx" not in text


def test_metrics_count_refused_items(open_client):
    client = open_client()
    client.post("/generate", json={"prompt": "a", "images": "data:,no"})
    client.post("/generate", json={"prompt": "a", "images": PICTURE})
    assert 'edge_glass_refused_total{kind="image"} 1.0' in client.get("/metrics").text


def test_full_queue_tells_when_to_come_again(open_client):
    error = ApiError(429, "too many requests wait", "queue_full", retry_after=3)
    client = open_client(fake_service(generator=FakeGenerator(error=error)))
    response = client.post("/generate", json=PROMPT)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json()["error"]["type"] == "rate_limit_error"
