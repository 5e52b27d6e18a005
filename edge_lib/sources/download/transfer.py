"""A large file over HTTP: resumed where it stopped, checked, and named when it is whole."""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from edge_lib.config import ConfigError
from edge_lib.runs.files import full_disk_errors, sha256_of
from edge_lib.runs.progress import progress_bar
from edge_lib.sources.download.disk import require_space, write_json

log = logging.getLogger(__name__)
ATTEMPTS = 6  # in a row that bring no new byte
LONGEST_WAIT = 120  # seconds, also of Retry-After
TRANSIENT = {408, 425, 429, *range(500, 600)}
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
sleep = time.sleep


class TransientError(Exception):
    """A transient failure. wait: the seconds that the server asks for."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


def make_client() -> httpx.Client:
    """A client that asks for bytes as they are stored: a compressed response has no ranges."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "edge-glass"}
    return httpx.Client(follow_redirects=True, max_redirects=5, timeout=30, headers=headers)


def download_file(client: httpx.Client, url: str, path: Path, size=None, sha256=None) -> dict:
    """Write a URL to `path`, or what is left of it; a file that is there is checked alone. Returns
    url, bytes and sha256.

    size, sha256: as published; null where nobody has. The content is at `path`.part until both are
    right.

    Raises ConfigError for a status that stays, a file that is not the published one, too little
    space, and failures that last; run again, it goes on.
    """
    part = PartialFile(path)
    if not path.exists():
        retry(url, lambda: _receive(client, url, part, size), part)
    return {"url": url, **part.finish(url, sha256)}


def content_length(client: httpx.Client, url: str) -> int | None:
    """The length of a URL's content, without reading it; null if the server does not say."""

    def ask() -> int | None:
        with _response(client, url, {}) as response:
            check_status(response)
            return _length(response)

    return retry(url, ask)


def check_status(response: httpx.Response) -> None:
    """TransientError or ConfigError for a response that is no success."""
    status = f"HTTP {response.status_code} {response.reason_phrase}"
    if response.status_code in TRANSIENT:
        seconds = response.headers.get("Retry-After", "")
        raise TransientError(status, float(seconds) if seconds.isdecimal() else None)
    if not response.is_success:
        raise ConfigError(f"{response.url}: {status}; it may have moved: see the set's home page")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ConfigError(f"{response.url}: the server compresses what is asked for as it is")


def retry(url: str, action, part: "PartialFile | None" = None):
    """The action's value. It is repeated after transient failures, with growing waits;
    ConfigError after ATTEMPTS that bring nothing new.
    """
    failures = 0
    while True:
        before = part.bytes if part else 0
        try:
            return action()
        except TransientError as error:
            failures = 1 if part and part.bytes > before else failures + 1
            if failures == ATTEMPTS:
                raise ConfigError(f"{url}: {error}; the same command goes on later") from None
            wait = min(error.wait if error.wait is not None else 2**failures, LONGEST_WAIT)
            log.warning("%s: %s; try %d of %d in %g s", url, error, failures + 1, ATTEMPTS, wait)
            sleep(wait)


class PartialFile:
    """A file that arrives: its bytes at NAME.part, and at NAME.part.json what the server said."""

    def __init__(self, path: Path):
        self.path = path
        self.content = path.with_name(f"{path.name}.part")
        self.state = path.with_name(f"{path.name}.part.json")

    @property
    def bytes(self) -> int:
        return self.content.stat().st_size if self.content.exists() else 0

    @property
    def facts(self) -> dict:
        """etag, last_modified and total, of the response that began the file."""
        return json.loads(self.state.read_text()) if self.state.exists() else {}

    def headers(self) -> dict[str, str]:
        """Of a request for the rest, if the server can tell whether it is of the same file."""
        etag = self.facts.get("etag") or ""
        unchanged = etag if not etag.startswith("W/") else ""
        unchanged = unchanged or self.facts.get("last_modified")
        if not self.bytes or not unchanged:
            return {}
        return {"Range": f"bytes={self.bytes}-", "If-Range": unchanged}

    def is_whole(self) -> bool:
        return self.facts.get("total") is not None and self.bytes == self.facts["total"]

    def begin(self, response: httpx.Response) -> None:
        """Keep what is there if the response is the rest of it, else start over."""
        if response.status_code != 206:
            self.restart()
            headers = response.headers
            facts = {"etag": headers.get("ETag"), "last_modified": headers.get("Last-Modified")}
            write_json(self.state, facts | {"total": _length(response)})
        elif _content_range(response) != (self.bytes, self.facts["total"]):
            self.restart()
            raise TransientError("the server sends another range than asked for")

    def restart(self) -> None:
        self.content.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def finish(self, url: str, sha256: str | None) -> dict:
        """Give the file its name; its bytes and sha256. ConfigError if it is not the published one,
        which is then removed.
        """
        content = self.content if self.content.exists() else self.path
        digest = sha256_of(content)
        if sha256 not in (None, digest):
            content.unlink()
            self.restart()
            raise ConfigError(
                f"{url}: its sha256 is {digest}, where {sha256} was published: the file was "
                "damaged on the way or replaced; the same command fetches it again"
            )
        content.replace(self.path)
        self.state.unlink(missing_ok=True)
        return {"bytes": self.path.stat().st_size, "sha256": digest}


def _receive(client: httpx.Client, url: str, part: PartialFile, size: int | None) -> None:
    if part.is_whole():
        return
    with _response(client, url, part.headers()) as response:
        if response.status_code == 416:
            part.restart()
            raise TransientError("HTTP 416: what is here is no part of the file")
        check_status(response)
        part.begin(response)
        total = part.facts["total"]
        if size is not None and total is not None and total != size:
            part.restart()
            raise ConfigError(f"{url} has {total:,} bytes, where {size:,} were published")
        require_space(part.path.parent, (total or 0) - part.bytes, part.path.name)
        _append(response, part, total)
    if total is not None and part.bytes != total:
        raise TransientError(f"{part.bytes:,} of {total:,} bytes arrived")


def _append(response: httpx.Response, part: PartialFile, total: int | None) -> None:
    name = part.path.name
    with (
        full_disk_errors(part.path),
        part.content.open("ab") as file,
        progress_bar(name, total, initial=part.bytes) as bar,
    ):
        for chunk in response.iter_raw():
            file.write(chunk)
            bar.update(len(chunk))


@contextmanager
def _response(client: httpx.Client, url: str, headers: dict) -> Iterator[httpx.Response]:
    """A response whose body has not been read. TransientError for what happens on the way."""
    try:
        with client.stream("GET", url, headers=headers) as response:
            yield response
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise ConfigError(f"{url}: {error}") from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise TransientError(f"cannot reach {urlsplit(url).netloc} ({_detail(error)})") from None
    except httpx.TransportError as error:
        raise TransientError(_detail(error)) from None


def _detail(error: Exception) -> str:
    return str(error) or type(error).__name__


def read_range(client: httpx.Client, url: str, start: int, stop: int) -> bytes:
    """Bytes start to stop of a URL. ConfigError if the server has no ranges."""

    def ask() -> bytes:
        with _response(client, url, {"Range": f"bytes={start}-{stop - 1}"}) as response:
            check_status(response)
            if response.status_code != 206 or _content_range(response)[0] != start:
                raise ConfigError(
                    f"{url}: the server has no ranges, so a part cannot be had without the whole; "
                    "leave out rows"
                )
            content = response.read()
        if len(content) != stop - start:
            raise TransientError(f"{len(content):,} of {stop - start:,} bytes arrived")
        return content

    return retry(url, ask)


def _length(response: httpx.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """Start and total of Content-Range, null where it does not say."""
    match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start, total = match.groups() if match else (None, None)
    return start and int(start), int(total) if total and total != "*" else None
