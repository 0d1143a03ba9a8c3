"""`GET /docs`: the description of the routes, shown by Swagger UI without any other host."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import NotFound
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front

# Swagger UI draws its icons from data URLs and sets styles on its elements.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_OURS = Path(str(resources.files(__package__)))
_SWAGGER = Path(str(resources.files(fastapi_offline))) / "static"
_FILES = {
    "operations.js": (_OURS / "operations.js", "text/javascript"),
    "swagger-ui-bundle.js": (_SWAGGER / "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": (_SWAGGER / "swagger-ui.css", "text/css"),
    "favicon.png": (_SWAGGER / "favicon.png", "image/png"),
}


@cache
def _read(path: Path) -> bytes:
    return path.read_bytes()


def docs_routes(front: Front) -> APIRouter:
    """Return the page and the files that it loads; none of them are part of the description."""
    router = raw_router("Operation")

    async def page(request: Request) -> Response:
        """Show the routes."""
        return Response(_read(_OURS / "docs.html"), media_type="text/html", headers={"content-security-policy": POLICY})

    async def file(request: Request) -> Response:
        """Return a file of the page."""
        name = request.path_params["file"]
        if name not in _FILES:
            raise NotFound(f"there is nothing at {request.url.path}")
        path, media_type = _FILES[name]
        return Response(_read(path), media_type=media_type, headers={"cache-control": "max-age=3600"})

    router.add_api_route("/docs", page, methods=["GET"], include_in_schema=False)
    router.add_api_route("/docs/{file}", file, methods=["GET"], include_in_schema=False)
    return router
