"""The page at /, and the description of the API at /docs, both without a content network."""

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

PAGE = Path(__file__).parents[1] / "page"
DOCS_POLICY = (  # the script that starts it is inside the page
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


def add_page(app: FastAPI) -> None:
    """Add the routes of files."""
    swagger = Path(str(files("fastapi_offline"))) / "static"
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")
    app.mount("/docs/files", StaticFiles(directory=swagger), name="swagger")
    app.add_api_route("/", _index, include_in_schema=False)
    app.add_api_route("/docs", _docs, include_in_schema=False)


async def _index() -> FileResponse:
    return FileResponse(PAGE / "index.html")


async def _docs() -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Edge Glass API",
        swagger_js_url="docs/files/swagger-ui-bundle.js",
        swagger_css_url="docs/files/swagger-ui.css",
        swagger_favicon_url="page/icon.svg",
    )
    page.headers["Content-Security-Policy"] = DOCS_POLICY
    return page
