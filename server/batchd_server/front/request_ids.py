"""The outermost layer: every request gets an id, every answer carries it, and no exception leaves as a traceback.

Pure ASGI on purpose: Starlette's BaseHTTPMiddleware costs 200 us per request and hides disconnects.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchd_server.errors import ServingError, Unavailable
from batchd_server.front.disconnects import ClientGone
from batchd_server.front.error_responses import error_response
from batchd_server.observe.logs import request_id as logged_request_id

_ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_log = logging.getLogger(__name__)


def request_id_of(scope: Scope) -> str:
    """Return the id that the outermost layer gave to the request."""
    request_id: str = scope["state"]["request_id"]
    return request_id


class RequestIds:
    """Takes the client's `X-Request-Id` where it is well-formed, else makes one, and answers with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application with an id in `scope["state"]`, and answer for what it does not catch."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _client_id(scope) or secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        logged_request_id.set(request_id)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        async def answer(error: ServingError) -> None:
            if not started:
                await error_response(error, scope["path"], request_id)(scope, receive, send_with_id)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientGone:
            _log.debug("request %s: the client has gone", request_id)
        except asyncio.CancelledError:
            # The HTTP server gives up on requests that outlast its shutdown.
            await answer(Unavailable("the server is shutting down", code="draining"))
            raise
        except Exception:  # noqa: BLE001 - the last resort: whatever it is, the client gets an answer
            _log.exception("request %s: %s %s failed unexpectedly", request_id, scope["method"], scope["path"])
            await answer(ServingError("internal error; the log has more under the request id"))


def _client_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if _ACCEPTED.fullmatch(value) else None
    return None
