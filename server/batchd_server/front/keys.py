"""The layer that asks for keys: outermost but for the request's id, before any of the body is read.

Pure ASGI, like `request_ids.py` and for the same reasons. It fails closed: what `scopes.py` does not know is for keys
with the scope admin alone, so that no spelling of a path that the router takes and the table does not opens a route.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from batchd_server.config.keys import key_digest
from batchd_server.config.settings import KeyScope, KeySettings
from batchd_server.errors import Forbidden, NotFound, ServingError, Unauthorized
from batchd_server.front.error_responses import error_response
from batchd_server.front.request_ids import request_id_of
from batchd_server.front.request_log import note_error
from batchd_server.front.scopes import OPEN, scopes_of
from batchd_server.observe.log_context import serving

_CHALLENGE = 'Bearer realm="batchd"'
_QUIET_S = 10.0
"""Between two lines in the log: who is refused must not be able to fill a disk."""

log = logging.getLogger(__name__)


class Keys:
    """Lets a request through whose key has one of the scopes that its route asks for."""

    def __init__(self, app: ASGIApp, keys: Sequence[KeySettings], clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._keys = tuple(keys)
        self._clock = clock
        self._refused = 0
        self._quiet_until = clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or answer 401, 403 or 404."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            key = self._admit(scope)
        except ServingError as refusal:
            self._note(scope, refusal)
            note_error(scope, refusal)
            headers = {"www-authenticate": _challenge(refusal)} if refusal.status in (401, 403) else None
            answer = error_response(refusal, scope["path"], request_id_of(scope), headers=headers)
            await answer(scope, receive, send)
            return
        if key is not None:
            serving.set({**serving.get(), "key": key.name})  # what is logged from here on tells who asked
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> KeySettings | None:
        needed = scopes_of(scope["method"], scope["path"])
        if needed == OPEN:
            return None
        key = self._key(scope)
        if KeyScope.ADMIN in key.scopes:
            return key
        if needed is None:
            raise NotFound(f"there is nothing at {scope['path']} for {scope['method']}")
        if needed.isdisjoint(key.scopes):
            wanted = " or ".join(scope for scope in KeyScope if scope in needed or scope is KeyScope.ADMIN)
            raise Forbidden(f"the key {key.name!r} has not the scope {wanted}")
        return key

    def _key(self, scope: Scope) -> KeySettings:
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        if not shown:
            raise Unauthorized("a key is needed: Authorization: Bearer KEY")
        scheme, _, secret = shown[0].partition(b" ")
        if len(shown) > 1 or scheme.lower() != b"bearer":
            raise Unauthorized("there must be one Authorization header, of the form Bearer KEY")
        digest = key_digest(secret.strip())
        # all of them, whichever fits: the time tells nothing
        fitting = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not fitting:
            raise Unauthorized("the key is not known here")
        return fitting[0]

    def _note(self, scope: Scope, refusal: ServingError) -> None:
        self._refused += 1
        now = self._clock()
        if now >= self._quiet_until:
            more = f"; {self._refused - 1} others since the last such line" if self._refused > 1 else ""
            log.warning("refused %s %.200s: %s%s", scope["method"], scope["path"], refusal.message, more)
            self._refused, self._quiet_until = 0, now + _QUIET_S


def _challenge(refusal: ServingError) -> str:
    """The form of RFC 6750, section 3."""
    return f'{_CHALLENGE}, error="insufficient_scope"' if refusal.status == 403 else _CHALLENGE
