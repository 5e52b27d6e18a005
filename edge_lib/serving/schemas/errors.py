"""The body of an error."""

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """message: for people. code: for programs. param: the part of the request that is wrong."""

    message: str
    type: str
    code: str
    param: str | None
    request_id: str


class ErrorBody(BaseModel):
    """Every error has this shape, which is OpenAI's."""

    error: ErrorDetail


TEXTS = {
    400: "The request is not valid; param names the part.",
    401: "The API key is missing or wrong.",
    403: "The request comes from a page of another site, or is for another host name.",
    404: "The model or what it is asked for does not exist.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is neither JSON nor a form with files.",
    429: "The queue is full; Retry-After is the number of seconds to wait.",
    500: "The model or the server failed; its log has the cause.",
    503: "The model is loading, or the server is stopping.",
}
ERRORS = {status: {"model": ErrorBody, "description": text} for status, text in TEXTS.items()}
