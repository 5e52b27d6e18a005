"""`edge-glass serve` in a process of its own."""

import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import httpx

RUNNING = re.compile(r"running on (http://\S+)")  # a line of uvicorn's
SERVE = [sys.executable, "-m", "edge_lib", "serve"]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def server_process(folder, *options):
    """The process and its URL, as soon as it listens."""
    command = [*SERVE, str(folder), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        urls = (match[1] for line in lines if (match := RUNNING.search(line)))
        url = next(urls, None)
        assert url, f"exit code {process.wait()}"
        yield process, url
    finally:
        process.kill()
        process.communicate()


def wait_for(condition, process):
    """Until the condition holds. A server that does not listen yet fulfils none."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.ConnectError):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError(f"exit code {process.poll()}")


def is_ready(url):
    return httpx.get(f"{url}/ready", timeout=30).is_success
