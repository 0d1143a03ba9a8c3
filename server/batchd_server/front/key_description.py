"""The part of the OpenAPI description that tells which key a route asks for, where any is asked for."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from batchd_server.config.settings import KeyScope
from batchd_server.front.scopes import OPEN, SCOPES

_SCHEME = {"type": "http", "scheme": "bearer", "description": "A key that `batchd key new` has printed."}


def describe_keys(app: FastAPI) -> None:
    """Have the description of `app` name the scopes of every route; any one of them is enough."""
    describe = app.openapi

    def with_keys() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = describe()
        document.setdefault("components", {})["securitySchemes"] = {"key": _SCHEME}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                needed = SCOPES[method.upper(), path]
                if needed != OPEN:
                    enough = [scope for scope in KeyScope if scope in needed or scope is KeyScope.ADMIN]
                    operation["security"] = [{"key": [str(scope)]} for scope in enough]
        return document

    app.openapi = with_keys  # type: ignore[method-assign]
