"""The outermost layer: every request gets an id, every answer carries it, and no exception leaves as a traceback.

Pure ASGI on purpose: Starlette's BaseHTTPMiddleware costs 200 us per request and hides disconnects.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchd_server.errors import ServingError, Unavailable
from batchd_server.front.disconnects import ClientGone
from batchd_server.front.error_responses import error_response
from batchd_server.front.request_log import log_finished, log_unexpected, note_error
from batchd_server.front.secure_headers import secure_headers
from batchd_server.observe.log_context import serving
from batchd_server.observe.traceparent import parse_traceparent

_ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,128}")


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
        request_id = client_id(scope["headers"]) or secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        serving.set({"request_id": request_id, **_trace_ids(scope)})
        begun = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message["headers"] = given + secure_headers(scope["method"], given)
            await send(message)

        async def answer(error: ServingError, *, logged: bool = False) -> None:
            note_error(scope, error, expected=logged)
            if not status:
                await error_response(error, scope["path"], request_id)(scope, receive, send_with_id)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientGone:
            pass  # which the line below tells by there being no status
        except asyncio.CancelledError:
            # The HTTP server gives up on requests that outlast its shutdown.
            await answer(Unavailable("the server is shutting down", code="draining"))
            raise
        except GeneratorExit:  # the event loop has been closed under the request
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a model's front half raises, the client gets an answer
            log_unexpected(scope, error)
            await answer(ServingError("internal error; the log has more under the request id"), logged=True)
        finally:
            log_finished(scope, status, time.monotonic() - begun)


def client_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the id that the client sent, if it is well-formed."""
    for name, value in headers:
        if name == b"x-request-id":
            return value.decode() if _ACCEPTED.fullmatch(value) else None
    return None


def _trace_ids(scope: Scope) -> dict[str, str]:
    """The fields of a request that comes with one valid `traceparent`; several are none."""
    given = [value for name, value in scope["headers"] if name == b"traceparent"]
    trace = parse_traceparent(given[0]) if len(given) == 1 else None
    return {} if trace is None else {"trace_id": trace.trace_id, "parent_id": trace.parent_id}
