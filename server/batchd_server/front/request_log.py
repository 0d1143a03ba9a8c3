"""The line that the log gets about a finished request: what it was, what it was answered, how long it took.

Answers below 500 are told at debug. A 5xx is a warning, told here and nowhere else, with what the client was told; only
the answers of readiness probes are not, for a server that starts has no problem.
"""

from __future__ import annotations

import logging
from typing import Any

from starlette.types import Scope

from batchd_server.errors import ServingError

MAX_PATH_CHARS = 200

_log = logging.getLogger(__name__)


def note_error(scope: Scope, error: ServingError, *, expected: bool = False) -> None:
    """Keep what a request was refused with for its line. `expected`: the refusal is the answer to the question."""
    scope["state"] |= {"error": error, "expected": expected}


def log_finished(scope: Scope, status: int, seconds: float) -> None:
    """Log a request whose answer has begun, or which has ended without one (`status` 0)."""
    state = scope["state"]
    level = logging.WARNING if status >= 500 and not state.get("expected") else logging.DEBUG
    if not _log.isEnabledFor(level):
        return
    error: ServingError | None = state.get("error")
    fields: dict[str, Any] = {"status": status, "seconds": round(seconds, 6)}
    if error is not None:
        fields["code"] = error.code
    model = scope.get("path_params", {}).get("model")
    if model is not None:
        fields["model"] = model[:MAX_PATH_CHARS]
    request = f"{scope['method']} {scope['path'][:MAX_PATH_CHARS]}"
    if not status:
        _log.log(level, "%s was not answered: the client has gone", request, extra=fields)
    elif error is None:
        _log.log(level, "%s answered %d", request, status, extra=fields)
    else:
        cause = error.__cause__
        _log.log(level, "%s answered %d: %s", request, status, error.message, exc_info=cause, extra=fields)


def log_unexpected(scope: Scope, error: BaseException) -> None:
    """Log what no route has made an answer of: a defect, of ours or of a model's front half."""
    _log.error("%s %s failed unexpectedly", scope["method"], scope["path"][:MAX_PATH_CHARS], exc_info=error)
