"""Errors have one shape, and name the part of the request that is wrong."""

import pytest
from serving.fakes import FakeGenerator, fake_service

from edge_lib.serving.schemas.examples import PICTURE

PROMPT = {"prompt": "hello"}
FORM = "multipart/form-data; boundary=x"


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
    ids=str,
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
def test_damaged_json_is_refused(client, content):
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
def test_damaged_form_is_refused(client, content, content_type):
    response = client.post("/generate", content=content, headers={"Content-Type": content_type})
    assert response.status_code == 400
    assert response.json()["error"].keys() >= {"message", "request_id"}


URL = "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    ("content", "param", "message"),
    [
        (None, "", "missing, or null"),
        (5, "", "expected a list"),
        ([None], ".0", "expected an object"),
        (["a"], ".0", "expected an object"),
        ([{"text": "a"}], ".0", "expected an object with a type"),
        ([{"type": "text", "text": None}], ".0.text", "missing, or null"),
        ([{"type": "image_url", "image_url": URL}], ".0.image_url", 'an object {"url": "data:'),
        ([{"type": "image_url", "image_url": [URL]}], ".0.image_url", 'an object {"url": "data:'),
        ([{"type": "image_url", "image_url": {}}], ".0.image_url.url", "missing, or null"),
        ([{"type": "input_audio", "input_audio": "AA"}], ".0.input_audio", 'object {"data": '),
        ([{"type": "image", "image": URL}], ".0", "no type image; expected one of 'text', "),
    ],
    ids=str,
)
def test_wrong_content_is_explained(client, content, param, message):
    body = {"messages": [{"role": "user", "content": content}]}
    error = client.post("/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == f"messages.0.content{param}"
    assert message in error["message"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "gzip, gzip", "x"])
def test_compressed_body_is_refused(client, encoding):
    headers = {"Content-Encoding": encoding}
    for body in ({"json": PROMPT}, {"files": {"images": b"x"}, "data": PROMPT}):
        error = client.post("/generate", headers=headers, **body).json()["error"]
        assert (error["code"], "Content-Encoding" in error["message"]) == (
            "unsupported_media_type",
            True,
        )
    for encoding in ("identity", "Identity", ""):
        headers = {"Content-Encoding": encoding}
        assert client.post("/generate", json=PROMPT, headers=headers).status_code == 200


@pytest.mark.parametrize("name", ["prompt", "n", "max_tokens", "messages", "image"])
def test_field_that_is_given_twice_is_refused(client, name):
    """None of them is dropped in silence."""
    files = [(name, (None, "1")), (name, (None, "1"))]
    path = "/caption" if name == "image" else "/generate"
    response = client.post(path, files=files)
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    assert "more than once" in response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["q", "k", "dim", "modality"])
def test_parameter_that_is_given_twice_is_refused(client, name):
    values = {"q": "a", "k": 1, "dim": 2, "modality": "vision"}
    response = client.get("/search", params=[*values.items(), (name, values[name])])
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)


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


@pytest.mark.parametrize(
    ("query", "param"),
    [("q=", "q"), ("q=a&k=0", "k"), ("q=a&k=x", "k"), ("q=a&dims=8", "dims")],
)
def test_param_of_a_search_is_that_of_the_url(client, query, param):
    response = client.get(f"/search?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_failure_shows_a_client_nothing_of_its_cause(open_client, caplog):
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
