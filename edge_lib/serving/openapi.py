"""The description of the API at /openapi.json, with the bodies that routes read themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

REF = "#/components/schemas/{model}"
BODIES: list[type[BaseModel]] = []


def body(
    model: type[BaseModel], examples: dict[str, Any], many: bool = False, form: bool = False
) -> dict[str, Any]:
    """`openapi_extra` of a route. examples: by title. many: a list is taken as well. form: whether
    files may be uploaded.
    """
    BODIES.append(model)
    one = {"$ref": REF.format(model=model.__name__)}
    schema = {"anyOf": [one, {"type": "array", "items": one}]} if many else one
    values = {title: {"value": value} for title, value in examples.items()}
    content = {"application/json": {"schema": schema, "examples": values}}
    if form:
        content["multipart/form-data"] = {"schema": one}
    return {"requestBody": {"required": True, "content": content}}


def describe(app: FastAPI) -> None:
    """Let the app describe itself."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _schema(app)
        return app.openapi_schema

    app.openapi = openapi


def _schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    bodies = [(model, "validation") for model in BODIES]
    _, definitions = models_json_schema(bodies, ref_template=REF)
    schema["components"]["schemas"] |= definitions["$defs"]
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # all that is not valid answers 400
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    return schema
