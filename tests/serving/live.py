"""An app on a real socket, in a thread of this process."""

import socket
import threading
from contextlib import contextmanager

import uvicorn
from serving.waiting import until

from edge_lib.serving.app import create_app


@contextmanager
def live_server(service, **options):
    """Serves a `Service`; yields the base URL."""
    app = create_app(lambda: service, service.settings, service.metrics)
    config = uvicorn.Config(app, port=0, log_level="warning", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started and app.state.service, seconds=30)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


def send_begin(url, length, content, start="POST /generate"):
    """Begin a request of this length; returns the connection."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"{start} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + content)
    return connection
