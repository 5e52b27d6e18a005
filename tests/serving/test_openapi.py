"""The description of the API: complete, and true of its own examples."""

import json

import jsonschema
import pytest
from serving.fakes import fake_service

from edge_lib.serving.app import create_app
from edge_lib.serving.errors import CODES
from edge_lib.serving.settings import ServeSettings

SCHEMA = create_app(fake_service, ServeSettings()).openapi()
EXAMPLES = {
    f"{path} {title}": (path, content["schema"], example["value"])
    for path, operations in SCHEMA["paths"].items()
    for operation in operations.values()
    for content in operation.get("requestBody", {}).get("content", {}).values()
    for title, example in content.get("examples", {}).items()
}


def resolve(schema):
    """A schema with the components that it refers to."""
    return schema | {"components": SCHEMA["components"]}


def test_description_holds_every_route_of_the_plan():
    assert {
        (path, method.upper()) for path in SCHEMA["paths"] for method in SCHEMA["paths"][path]
    } == {
        ("/generate", "POST"),
        ("/caption", "POST"),
        ("/embed", "POST"),
        ("/v1/chat/completions", "POST"),
        ("/v1/embeddings", "POST"),
        ("/v1/models", "GET"),
        ("/v1/models/{name}", "GET"),
        ("/search", "GET"),
        ("/search", "POST"),
        ("/search/pictures/{row}", "GET"),
        ("/health", "GET"),
        ("/ready", "GET"),
        ("/metrics", "GET"),
    }


def test_every_reference_is_defined():
    text = json.dumps(SCHEMA)
    references = {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    assert references <= SCHEMA["components"]["schemas"].keys()
    assert "ErrorBody" in references


def test_files_can_be_uploaded_where_the_description_says_so():
    bodies = {
        path: operations.get("post", {}).get("requestBody")
        for path, operations in SCHEMA["paths"].items()
    }
    forms = {path for path, body in bodies.items() if "multipart/form-data" in str(body)}
    assert forms == {"/generate", "/caption", "/embed", "/search"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_valid_and_answered(client, name):
    path, schema, example = EXAMPLES[name]
    jsonschema.validate(example, resolve(schema))
    response = client.post(path, json=example)
    assert response.status_code == 200, response.text
    if "stream" not in example:
        answer = SCHEMA["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]
        jsonschema.validate(response.json(), resolve(answer["schema"]))


def test_errors_are_as_described(client):
    for status in ("400", "404", "415"):
        answer = SCHEMA["paths"]["/generate"]["post"]["responses"][status]["content"]
        schema = resolve(answer["application/json"]["schema"])
        jsonschema.validate(client.post("/generate", json={}).json(), schema)


def test_every_status_of_an_error_is_described():
    described = {
        (path, method): {int(status) for status in operation["responses"]} - {200}
        for path, operations in SCHEMA["paths"].items()
        for method, operation in operations.items()
    }
    few = {"/health": {403}, "/ready": {403, 503}, "/metrics": {401, 403}}
    for (path, _), statuses in described.items():
        assert statuses == few.get(path, {*CODES, 401, 403, 429, 500, 503} - {405}), path


def test_docs_need_no_other_server(client):
    page = client.get("/docs").text
    assert "http" not in page.replace("http-equiv", "")
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"docs/files/{name}" in page
        assert client.get(f"/docs/files/{name}").status_code == 200
