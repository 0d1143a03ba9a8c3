"""The layer that refuses under overload before any route is reached: what `shedding.py` turns away.

Pure ASGI, like `request_ids.py` and for the same reasons. Of a request it reads what a verdict takes, from the head of
a small body, and passes on whatever it does not understand: its route finds the words for that. Large or compressed
bodies are let through.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchd_server.errors import ServingError
from batchd_server.front.attempts import declared_bytes, request_kind
from batchd_server.front.deadlines import TIMEOUT_HEADER, explicit_timeout_s
from batchd_server.front.error_responses import error_response
from batchd_server.front.limits import read_body
from batchd_server.front.oip.request import HEADER_LENGTH, header_length
from batchd_server.front.request_ids import request_id_of
from batchd_server.front.request_log import note_error
from batchd_server.front.service import Front
from batchd_server.front.shedding import TurnedAway

MAX_BODY_BYTES = 128 * 1024
"""Larger bodies take so long to come that refusing them early saves little."""
SHED = "shed"
"""The outcome, in the metrics, of requests that no device process was asked about."""

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/[^/]+)?/infer")
_EMBEDDINGS = "/v1/embeddings"
_TIMEOUT_HEADER = TIMEOUT_HEADER.lower().encode()
_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_chance = random.Random()  # noqa: S311 - to spread clients, not secrets


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the head of a request says."""

    model: str
    api: str
    priority: int
    timeout_s: float | None


class EarlyRefusals:
    """Answers what is turned away; all else goes on to the application."""

    def __init__(self, app: ASGIApp, front: Front) -> None:
        self._app = app
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or refuse."""
        shedding = self._front.shedding
        if shedding.calm or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        named = _INFER.fullmatch(path)
        headers = dict(scope["headers"])
        num_bytes = declared_bytes(headers)
        if (named is None and path != _EMBEDDINGS) or not 0 <= num_bytes <= MAX_BODY_BYTES:
            await self._app(scope, receive, send)
            return
        arrived = time.monotonic()
        request = Request(scope, receive)
        try:
            with self._front.incoming.charge() as charge:
                body = await read_body(request, self._front.settings.server.max_body_bytes, charge)
        except ServingError as error:
            await _answer(error, scope, receive, send)
            return
        asked = self._asked(headers, body, None if named is None else named[1])
        if asked is None:
            await self._app(scope, _again(body, receive), send)
            return
        kind = request_kind(headers, asked.model, asked.api, asked.priority, num_bytes, asked.timeout_s)
        verdict = shedding.ask(kind, arrived, _chance.random())
        if isinstance(verdict, TurnedAway):
            await _answer(_refusal(verdict), scope, receive, send)
            spent = time.monotonic() - arrived
            self._front.observer.observe(asked.model, asked.api, SHED, spent, spent)
            return
        scope["state"]["attempt"] = verdict
        try:
            await self._app(scope, _again(body, receive), send)
        finally:
            shedding.settled(verdict, time.monotonic(), admitted=False)  # where no route has told more

    def _asked(self, headers: Mapping[bytes, bytes], body: bytes, model: str | None) -> _Asked | None:
        """Read the head of a request; None where its route had better say what is wrong with it."""
        limit_s = self._front.settings.server.max_request_timeout_s
        header = _text(headers.get(_TIMEOUT_HEADER))
        try:
            length = None if model is None else header_length(_text(headers.get(_HEADER_LENGTH)), body)
            document: Any = {} if length == 0 else orjson.loads(memoryview(body)[:length])
            if model is None:
                asked = _Asked(document["model"], "openai", 0, explicit_timeout_s(None, header, limit_s))
            else:
                parameters = document.get("parameters") or {}
                timeout_us, priority = parameters.get("timeout"), parameters.get("priority") or 0
                timeout_s = explicit_timeout_s(timeout_us, header, limit_s)
                asked = _Asked(model, "oip", priority, timeout_s)
        except (ServingError, ValueError, TypeError, LookupError, AttributeError):
            return None
        plain = type(asked.model) is str and type(asked.priority) is int
        return asked if plain and asked.model in self._front.settings.models else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _refusal(verdict: TurnedAway) -> ServingError:
    message = f"requests like this one are being refused: {verdict.like.message}"
    return type(verdict.like)(message, retry_after_s=verdict.retry_after_s, code=verdict.like.code)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that begins with a body that has been read."""
    fresh = True

    async def replay() -> Message:
        nonlocal fresh
        if fresh:
            fresh = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


async def _answer(error: ServingError, scope: Scope, receive: Receive, send: Send) -> None:
    note_error(scope, error)
    await error_response(error, scope["path"], request_id_of(scope))(scope, receive, send)
