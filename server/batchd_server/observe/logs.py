"""Logs: one line per event on stderr, as text for people or as JSON for machines, with the process's role."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from contextvars import ContextVar
from typing import Literal

Role = Literal["supervisor", "front", "device"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the HTTP request that this context serves; every line that is logged on its behalf carries it."""

# what every record has; the rest came as `extra=` and belongs to the event
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def configure_logging(role: Role, *, level: str, form: Literal["text", "json"]) -> None:
    """Send all logs of this process to stderr. Called once, before anything is logged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(role) if form == "json" else TextFormatter(role))
    root = logging.getLogger()
    for old in root.handlers:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # these report every request or connection at info: metrics tell that better
    for chatty in ("httpx", "httpcore", "uvicorn.access", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `role`, `pid`, `logger`, `message`, and what the event adds."""

    def __init__(self, role: Role) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "role": self._role,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _details(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL role: message key=value`; a traceback, where there is one, follows on its own lines."""

    def __init__(self, role: Role) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        # what a client or a model said must not begin a line of its own
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        details = "".join(f" {key}={value}" for key, value in _details(record).items())
        line = f"{_timestamp(record)} {record.levelname:<7} {self._role}[{record.process}]: {message}{details}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _details(record: logging.LogRecord) -> dict[str, object]:
    details = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    serving = request_id.get()
    if serving is not None:
        details.setdefault("request_id", serving)
    return details


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
