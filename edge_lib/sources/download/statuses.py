"""What can become of a URL."""

STATUSES = {
    "ok": "a picture",
    "gone": "404 or 410",
    "refused": "another answer that is not 200, or an encoding that cannot be read",
    "rate_limited": "429",
    "server_error": "5xx",
    "timeout": "no answer, or not all of it, in time",
    "connection": "name not resolved, refused, reset, TLS, HTTP, or a wrong length",
    "too_large": "more bytes than allowed",
    "redirects": "too many, or one that leads nowhere",
    "not_http": "a scheme other than http and https",
    "not_allowed": "a host that is not among the allowed ones",
    "private_address": "an address that is not of the public internet",
    "noai": "X-Robots-Tag forbids the use",
    "bad_url": "not a URL",
    "not_an_image": "other content, or an image format that is not read",
    "corrupt_image": "an image that cannot be decoded",
    "too_many_pixels": "more pixels than allowed, or sides that differ too much",
    "too_many_scans": "a JPEG of more passes over its pixels than encoders write",
}
TRANSIENT = frozenset({"rate_limited", "server_error", "timeout", "connection"})


class Failure(Exception):
    """Why a URL gives nothing. status: of `STATUSES`; error: one line; transient: whether another
    try soon may end otherwise.
    """

    def __init__(self, status: str, error: str, transient: bool | None = None):
        super().__init__(status, error)
        self.status = status
        self.error = " ".join(error.split())[:200]
        self.transient = status in TRANSIENT if transient is None else transient
