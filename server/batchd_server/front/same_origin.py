"""The layer that stands where no keys are asked for: other sites' pages, in a browser nearby, may give no orders.

A browser sends a page's request to any address that it can reach, this machine's own among them, and a form or a
`no-cors` fetch may change things though the page never reads the answer. Such requests carry `Origin`. A key needs no
such layer, for no browser adds one by itself.
"""

from __future__ import annotations

import ipaddress

from starlette.types import ASGIApp, Receive, Scope, Send

from batchd_server.errors import Forbidden
from batchd_server.front.error_responses import error_response
from batchd_server.front.request_ids import request_id_of
from batchd_server.front.request_log import note_error

_READING = {"GET", "HEAD"}


class SameOrigin:
    """Answers 403 to what a page of another origin sends, unless it only reads.

    `own_names` are host names that only we are known by. A name that an attacker owns may lead to us as well, and its
    pages are of our origin then; None = any name will do.
    """

    def __init__(self, app: ASGIApp, own_names: frozenset[str] | None) -> None:
        self._app = app
        self._own_names = own_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or refuse."""
        if scope["type"] != "http" or scope["method"] in _READING or self._is_own(scope):
            await self._app(scope, receive, send)
            return
        refusal = Forbidden("a page of another origin may not send this", field="Origin")
        note_error(scope, refusal)
        await error_response(refusal, scope["path"], request_id_of(scope))(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if not origins:
            return True
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        _, _, authority = origins[0].partition(b"://")
        if len(origins) > 1 or not authority or authority.lower() != host.lower():
            return False
        return self._own_names is None or self._is_our_name(authority.decode("latin-1").lower())

    def _is_our_name(self, authority: str) -> bool:
        name = authority.partition("]")[0].lstrip("[") if authority.startswith("[") else authority.partition(":")[0]
        if name == "localhost" or name in (self._own_names or ()):
            return True
        try:
            ipaddress.ip_address(name)  # an address leads where it says
        except ValueError:
            return False
        return True
