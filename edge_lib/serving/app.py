"""The application: routes, errors of one shape, and a service that loads in the background."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from edge_lib.serving.bodies import validation_error
from edge_lib.serving.errors import ApiError
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.middleware import RequestMiddleware, log
from edge_lib.serving.openapi import describe
from edge_lib.serving.remote import Fetcher
from edge_lib.serving.routes import chat, embed, generate, models, page, search, status
from edge_lib.serving.routes.dependencies import authorize, check_site
from edge_lib.serving.schemas.errors import ERRORS
from edge_lib.serving.service import Service
from edge_lib.serving.settings import ServeSettings

REFUSED = {"invalid_image": "image", "invalid_audio": "audio"}
DESCRIPTION = {
    "title": "Edge Glass",
    "description": "A trained model that generates, captions, embeds and searches.",
    "version": version("edge-glass"),
}


def create_app(
    load: Callable[[], Service], settings: ServeSettings, metrics: Metrics | None = None
) -> FastAPI:
    """The app answers /health at once. `load` runs in a thread; until it is done, /ready and the
    routes of the model answer 503. If it fails, `app.state.on_failure` is called with the error.
    """
    options = {"docs_url": None, "redoc_url": None, "redirect_slashes": False}
    app = FastAPI(lifespan=_lifespan, **DESCRIPTION, **options)
    metrics = metrics or Metrics()
    app.state.load, app.state.settings, app.state.metrics = load, settings, metrics
    app.state.service, app.state.on_failure = None, None
    app.add_middleware(RequestMiddleware, settings=settings, metrics=metrics)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    guards = [Depends(check_site), Depends(authorize)]
    for module in (generate, embed, chat, search, models):
        app.include_router(module.router, dependencies=guards, responses=ERRORS)
    app.include_router(status.router)
    page.add_page(app)
    describe(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = app.state.settings
    loading = asyncio.create_task(_load(app))
    async with Fetcher(settings) if settings.allow_urls else nullcontext() as app.state.fetcher:
        yield
        loading.cancel()
        if app.state.service:
            await app.state.service.stop()


async def _load(app: FastAPI) -> None:
    start = time.monotonic()
    try:
        service = await _in_daemon(app.state.load)
        service.start()
        app.state.service = service
        log.info("%s is ready after %.1f s", service.name, time.monotonic() - start)
    except Exception as error:
        if not app.state.on_failure:
            raise
        app.state.on_failure(error)


def _in_daemon(function: Callable[[], Service]) -> "asyncio.Future[Service]":
    """The result of a function in a thread that the process does not wait for when it ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Service] = loop.create_future()

    def run() -> None:
        try:
            setter, result = future.set_result, function()
        except BaseException as error:
            setter, result = future.set_exception, error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: future.done() or setter(result))

    threading.Thread(target=run, daemon=True).start()
    return future


def _api_error(request: Request, error: ApiError) -> Response:
    if kind := REFUSED.get(error.code):
        request.app.state.metrics.refused.labels(kind).inc()
    return error.response(request.state.request_id)


def _http_error(request: Request, error: HTTPException) -> Response:
    response = ApiError(error.status_code, str(error.detail)).response(request.state.request_id)
    response.headers.update(error.headers or {})
    return response


def _validation_error(request: Request, error: RequestValidationError) -> Response:
    return _api_error(request, validation_error(error.errors()))


HANDLERS = {
    ApiError: _api_error,
    HTTPException: _http_error,
    RequestValidationError: _validation_error,
}
