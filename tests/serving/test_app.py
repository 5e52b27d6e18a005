"""The app: loading, clients that leave, metrics."""

import json
import threading
from inspect import iscoroutinefunction

import httpx
import pytest
from fastapi.testclient import TestClient
from serving.fakes import LOCAL, FakeGenerator, app_of, fake_service
from serving.live import live_server, send_begin
from serving.waiting import until

from edge_lib.serving.errors import ApiError
from edge_lib.serving.routes import dependencies
from edge_lib.serving.schemas.examples import PICTURE

PROMPT = {"prompt": "hello"}


# --- loading --------------------------------------------------------------------------------------


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


# --- clients that leave ---------------------------------------------------------------------------


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


# --- metrics --------------------------------------------------------------------------------------


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


def test_full_queue_sends_retry_after(open_client):
    error = ApiError(429, "too many requests wait", "queue_full", retry_after=3)
    client = open_client(fake_service(generator=FakeGenerator(error=error)))
    response = client.post("/generate", json=PROMPT)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/docs", "/v1/models", "/page/page.js"])
def test_head_is_as_get_without_a_body(client, path):
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "content-security-policy"):
        assert head.headers[name] == get.headers[name]
    assert client.head("/nowhere").status_code == 404
    assert client.head("/generate").status_code == 405
