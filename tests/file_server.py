"""A server of files on 127.0.0.1 with ranges, and with the faults that a test orders."""

import hashlib
import io
import json
import re
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """files: path -> content. faults: path -> a list of functions (handler, content), each of which
    answers one request. headers: path -> headers of every answer. requests: (path, Range header) of
    those that came.
    """

    def __init__(self):
        self.files, self.headers, self.faults, self.requests = {}, {}, {}, []
        self.ranges, self.etags, self.lock = True, True, threading.Lock()
        self.url, self.stopped = None, threading.Event()

    def ranges_of(self, path):
        return [header for name, header in self.requests if name == path]


@contextmanager
def serve_files():
    server = FileServer()
    handler = type("Handler", (_Handler,), {"files": server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.stopped.set()
        http.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.path = self.path.partition("?")[0]
        with self.files.lock:
            self.files.requests.append((self.path, self.headers["Range"]))
            faults = self.files.faults.get(self.path)
            fault = faults.pop(0) if faults else answer
        content = self.files.files.get(self.path)
        if content is None and fault is answer:
            self.respond(404, b"no such file")
        else:
            try:
                fault(self, content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    def respond(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        headers |= self.files.headers.get(self.path, {})
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def validators(self, content):
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        return {"ETag": etag} if self.files.etags else {}


def answer(handler, content):
    validators = handler.validators(content)
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers["Range"] or "")
    unchanged = handler.headers.get("If-Range") in (None, validators.get("ETag"))
    if not (wanted and unchanged and handler.files.ranges):
        handler.respond(200, content, **validators)
        return
    start, stop = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1) + 1
    if start >= len(content):
        handler.respond(416, Content_Range=f"bytes */{len(content)}")
        return
    where = f"bytes {start}-{stop - 1}/{len(content)}"
    handler.respond(206, content[start:stop], Content_Range=where, **validators)


def cut_after(count):
    """The connection ends after so many bytes of the body."""

    def fault(handler, content):
        handler.respond(200, content[:count], len(content), **handler.validators(content))
        handler.close_connection = True

    return fault


def stall_after(count):
    """No further byte comes while the server runs."""

    def fault(handler, content):
        handler.respond(200, content[:count], len(content), **handler.validators(content))
        handler.wfile.flush()
        handler.files.stopped.wait(60)
        handler.close_connection = True

    return fault


def status(code, **headers):
    return lambda handler, content: handler.respond(code, b"", **headers)


def respond(code, body, **headers):
    return lambda handler, content: handler.respond(code, body, **headers)


def zip_of(members):
    """The bytes of a zip archive. members: name -> bytes, or an object that becomes JSON."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            archive.writestr(name, content)
    return buffer.getvalue()
