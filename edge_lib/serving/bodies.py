"""Bodies of requests: JSON or a form with files, within limits, validated."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from edge_lib.serving.errors import ApiError
from edge_lib.serving.settings import ServeSettings

B = TypeVar("B", bound=BaseModel)
# of JSON: what takes long to parse, unlike a data URI, keeps all other requests waiting
MAX_COUNTS = {"values": 100_000, "escapes": 1_000_000, "bytes that are not ASCII": 3_000_000}
# in a place of pydantic's: where a value comes from, or what it was validated as
UNIONS, PARTS = {"body", "query", "path", "str", "bytes"}, {"text", "image_url", "input_audio"}
MESSAGES = {  # in place of pydantic's, by the type of an error
    "list_type": "expected a list",
    "missing": "missing, or null",
    "model_attributes_type": "expected an object",
    "union_tag_invalid": "no type {tag}; expected one of {expected_tags}",
    "union_tag_not_found": "expected an object with a type",
}
OBJECTS = {"Url": '{"url": "data:image/png;base64,..."}', "Sound": '{"data": BASE64}'}
LISTS = {"images", "audio", "texts", "stop"}  # fields of a form that may be repeated


async def read_body(request: Request) -> tuple[Any, bool]:
    """The content of a body, and whether it is JSON, whose values have types."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise ApiError(415, "compressed bodies are not read; send it without Content-Encoding")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        body = await request.body()
        if len(body) > min(MAX_COUNTS.values()):
            await asyncio.to_thread(_check_counts, body)
        return _parse_json(body), True
    if kind == "multipart/form-data":
        charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
        if charset.lower() not in (b"utf-8", b"utf8"):
            raise ApiError(415, "the charset of a form is utf-8")
        limit = request.app.state.settings.max_items  # of each field that may be repeated
        async with request.form(max_files=2 * limit, max_fields=2 * limit + 50) as form:
            return await _form_values(form), False
    raise ApiError(415, "send application/json or multipart/form-data, named in Content-Type")


def _check_counts(body: bytes) -> None:
    """ApiError for more than `MAX_COUNTS`."""
    array = np.frombuffer(body, np.uint8)
    counts = {
        "values": sum(np.count_nonzero(array == mark) for mark in b",[{"),  # each begins one
        "escapes": np.count_nonzero(array == ord("\\")),
        "bytes that are not ASCII": np.count_nonzero(array > 127),
    }
    for name, limit in MAX_COUNTS.items():
        if counts[name] > limit:
            raise ApiError(413, f"the body holds more than {limit:,} {name}")


def _parse_json(body: str | bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", "invalid_json") from None


async def _form_values(form: FormData) -> dict[str, Any]:
    """Files as bytes; a list for fields that may be repeated. ApiError for others that are."""
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        content = await value.read() if isinstance(value, UploadFile) else value
        if name in LISTS:
            values.setdefault(name, []).append(content)
        elif name in values:
            raise ApiError(400, f"{name}: given more than once", param=name)
        else:
            values[name] = content
    # messages are JSON in a form as well
    if isinstance(text := values.get("messages"), str):
        values["messages"] = _parse_json(text)
    return values


def parse(model: type[B], value: Any, settings: ServeSettings, strict: bool, at: str = "") -> B:
    """The validated value; ApiError that names what is wrong first. at: its place, with a dot."""
    try:
        return model.model_validate(value, strict=strict, context=settings)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False), at) from None
    except ApiError as error:
        raise error.within(at) from None


def validation_error(problems: list[ErrorDetails], at: str = "") -> ApiError:
    """Of pydantic's first problem."""
    problem = problems[0]
    place = at + ".".join(_keys(problem["loc"]))
    message = _message(problem)
    if problem["type"] == "unknown":
        place = f"{place}.{problem['ctx']['name']}".lstrip(".")
    param = place.removesuffix(".") or None
    return ApiError(400, f"{param}: {message}" if param else message, param=param)


def _message(problem: ErrorDetails) -> str:
    values = problem.get("ctx", {})
    if problem["type"] == "model_type":
        return f"expected an object {OBJECTS.get(values['class_name'], '')}".rstrip()
    default = problem["msg"].removeprefix("Value error, ")
    return MESSAGES[problem["type"]].format(**values) if problem["type"] in MESSAGES else default


def _keys(loc: Sequence[int | str]) -> Iterator[str]:
    """Of pydantic's place, those that the request has: without the members of unions."""
    for parent, key in pairwise(("", *loc)):
        is_member = key in UNIONS or (isinstance(parent, int) and key in PARTS)
        if not is_member:
            yield str(key)


async def read_one(request: Request, model: type[B]) -> B:
    """A body that is one item."""
    value, strict = await read_body(request)
    return parse(model, value, request.app.state.settings, strict)


async def read_items(request: Request, model: type[B]) -> tuple[list[B], bool]:
    """A body that is one item or a list of items, and whether it is a list."""
    value, strict = await read_body(request)
    settings = request.app.state.settings
    if not isinstance(value, list):
        return [parse(model, value, settings, strict)], False
    if not 1 <= len(value) <= settings.max_items:
        raise ApiError(400, f"expected 1 to {settings.max_items} items, got {len(value)}")
    return [parse(model, item, settings, strict, f"{n}.") for n, item in enumerate(value)], True
