"""Requests of clients that are careless or hostile, as arguments of `httpx.AsyncClient.request`."""

import base64
import copy
import gzip
import json

from serving.hostile_files import hostile_file, valid_picture
from serving.hostile_values import HEADERS, METHODS, PATHS, RAW, TEXTS, TYPES, URIS, WEIRD

from edge_lib.serving.schemas import examples

BODIES = {
    "/generate": [*examples.GENERATE.values()],
    "/caption": [*examples.CAPTION.values()],
    "/embed": [*examples.EMBED.values()],
    "/v1/chat/completions": [*examples.CHAT.values()],
    "/v1/embeddings": [*examples.EMBEDDINGS.values()],
    "/search": [*examples.SEARCH.values()],
}


def data_uri(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


def media_uri(rng):
    return rng.choice(URIS) if rng.random() < 0.25 else data_uri(hostile_file(rng))


def limited(body, rng):
    """With few tokens, so that a campaign ends."""
    for item in body if isinstance(body, list) else [body]:
        item["max_tokens"] = rng.randrange(1, 5)
    return body


def valid_body(path, rng):
    body = copy.deepcopy(rng.choice(BODIES[path]))
    return limited(body, rng) if path in ("/generate", "/caption", "/v1/chat/completions") else body


def nodes(value):
    """(container, key) of all values inside."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(pairs):
        yield value, key
        if isinstance(item, dict | list):
            yield from nodes(item)


def change(body, rng):
    """One random change somewhere in a body."""
    container, key = rng.choice([*nodes(body)])
    old = container[key]
    if isinstance(old, str) and old.startswith("data:"):
        container[key] = media_uri(rng)
    elif isinstance(old, str) and rng.random() < 0.6:
        container[key] = rng.choice(TEXTS)
    elif isinstance(container, dict) and rng.random() < 0.2:
        del container[key]
    elif isinstance(container, dict) and rng.random() < 0.2:
        container[rng.choice(["tools", "logprobs", "n", "seed", "stop", "temperature", "zzz"])] = (
            copy.deepcopy(rng.choice(WEIRD))
        )
    else:
        container[key] = copy.deepcopy(rng.choice([*WEIRD, *TEXTS, [old], {"a": old}]))


def to_json(body):
    return json.dumps(body).encode()  # lone surrogates as escapes


def json_request(rng):
    path = rng.choice([*BODIES])
    body = valid_body(path, rng)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        if body:
            change(body, rng)
    headers = {"Content-Type": "application/json"}
    return {"method": "POST", "url": path, "content": to_json(body), "headers": headers}


def media_request(rng):
    """A body that is right but for its pictures and clips."""
    uris = [media_uri(rng) for _ in range(rng.choice([1, 1, 2, 3]))]
    field = rng.choice(["images", "audio"])
    path, body = rng.choice(
        [
            ("/embed", {field: uris}),
            ("/search", {field: uris[:1]}),
            ("/caption", {"image": uris[0], "max_tokens": 2}),
            ("/generate", {"prompt": "what?", field: uris, "max_tokens": 2}),
        ]
    )
    return {"method": "POST", "url": path, "json": body}


def raw_request(rng):
    kind = rng.choice(["application/json", "application/json", *TYPES])
    content = rng.choice(RAW)
    headers = {"Content-Type": kind.encode()}
    if rng.random() < 0.1:
        content, headers["Content-Encoding"] = gzip.compress(bytes(10**6)), b"gzip"
    return {"method": "POST", "url": rng.choice([*BODIES]), "content": content, "headers": headers}


def form_request(rng):
    """Multipart, in order or not."""
    names = ["../../etc/passwd", "a" * 500, "\0.png", "é.png", "", "con.png"]
    count = rng.choice([0, 1, 1, 2, 5, 70])
    files = [
        (rng.choice(["images", "audio", "image", "x"]), (rng.choice(names), hostile_file(rng)))
        for _ in range(count)
    ]
    data = {"prompt": rng.choice(TEXTS[6:]), "max_tokens": rng.choice(["2", "two", "-1", "1e3"])}
    form = {"data": data, "files": files or None}
    return {"method": "POST", "url": rng.choice([*BODIES]), **form}


def broken_form_request(rng):
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    picture = valid_picture(rng)
    content = rng.choice(
        [
            part + picture,
            part + picture + b"\r\n--c--",
            part * 200,
            b"--b\r\n\r\n\r\n--b--",
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
            b"--b\r\n" + b"X: y\r\n" * 5000 + b"\r\n\r\n--b--",
            b"\r\n" * 5000,
            b"--b\r\nContent-Disposition: form-data; name*=utf-8''%ff\r\n\r\nx\r\n--b--\r\n",
            part + b"x" * 2_000_000 + b"\r\n--b--",
        ]
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return {"method": "POST", "url": rng.choice([*BODIES]), "content": content, "headers": headers}


def path_request(rng):
    return {"method": rng.choice(METHODS[:2] * 5 + METHODS), "url": rng.choice([*PATHS, *BODIES])}


def header_request(rng):
    headers = {name: value.encode() for name, value in rng.choice(HEADERS).items()}
    request = rng.choice([json_request, path_request])(rng)
    return request | {"headers": request.get("headers", {}) | headers}


def large_request(rng):
    body = b'{"prompt": "' + b"a" * rng.choice([19_999_000, 20_000_001]) + b'"}'
    headers = {"Content-Type": "application/json"}
    return {"method": "POST", "url": "/generate", "content": body, "headers": headers}


REQUESTS = {
    json_request: 30,
    media_request: 30,
    raw_request: 10,
    form_request: 10,
    broken_form_request: 5,
    path_request: 8,
    header_request: 6,
    large_request: 0.3,
}


def hostile_request(rng):
    return rng.choices([*REQUESTS], [*REQUESTS.values()])[0](rng)
