"""An app on a real socket, in a thread of this process."""

import threading
import time
from contextlib import contextmanager

import uvicorn

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
        deadline = time.monotonic() + 30
        while not (server.started and app.state.service):
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
