"""The server process: listens at once, loads in the background, finishes what runs at its end."""

import logging
import signal
import sys
from functools import partial

import uvicorn
from fastapi import FastAPI

from edge_lib.serving.allocator import exempt_from_collection, return_freed_memory
from edge_lib.serving.app import create_app
from edge_lib.serving.checks import check_start
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.protocol import TimedProtocol
from edge_lib.serving.service import Service, load_service
from edge_lib.serving.settings import ServeSettings


def serve(run: str, settings: ServeSettings) -> None:
    """Serve what `run` names until SIGINT or SIGTERM. ConfigError if it cannot be loaded, or the
    port is in use."""
    check_start(run, settings)
    return_freed_memory()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("edge_glass.serving").setLevel(logging.INFO)
    metrics, errors = Metrics(), []

    def load() -> Service:
        with exempt_from_collection():
            return load_service(run, settings, metrics)

    app = create_app(load, settings, metrics)
    server = uvicorn.Server(_uvicorn_config(app, settings))

    def fail(error: Exception) -> None:
        errors.append(error)
        server.should_exit = True

    app.state.on_failure = fail
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # called again once all is finished
    server.run()
    if errors:
        raise errors[0]


def _uvicorn_config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=partial(TimedProtocol, timeout=settings.body_timeout),
        host=settings.host,
        port=settings.port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
