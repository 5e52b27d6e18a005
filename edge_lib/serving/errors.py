"""Errors as clients get them: one shape, that of OpenAI's API."""

from typing import Any

from starlette.responses import JSONResponse

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
}


class ApiError(Exception):
    """A request that cannot be answered.

    message: for the client, in our words. code: for programs. param: the part of the request that
    is wrong, such as "messages.0.content". retry_after: seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or CODES.get(status, "server_error")
        self.retry_after = retry_after

    def at(self, param: str | None) -> "ApiError":
        """The same error, of a part of the request."""
        return ApiError(self.status, self.message, self.code, param, self.retry_after)

    def within(self, place: str) -> "ApiError":
        """The same error, of an item of a list: its place, such as "1.", comes first."""
        param = self.param or ""
        param = param if param.startswith(place) else (place + param).removesuffix(".")
        return self.at(param or None)

    def content(self, request_id: str) -> dict[str, Any]:
        """The JSON body."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": TYPES.get(self.status, kind),
            "code": self.code,
            "param": self.param,
            "request_id": request_id,
        }
        return {"error": error}

    def response(self, request_id: str) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.content(request_id), self.status, headers)


def unusable(kind: str, reason: str, param: str | None = None) -> ApiError:
    """Of an image, a clip (kind "audio") or a text."""
    return ApiError(400, f"the {kind} cannot be used: {reason}", f"invalid_{kind}", param)
