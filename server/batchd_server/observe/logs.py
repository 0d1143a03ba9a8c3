"""Logs: one line per event on stderr, as text for people or as JSON for machines, with the process's role."""

from __future__ import annotations

import datetime
import json
import logging
import re
import sys
import time
from typing import Literal, TextIO

from batchd_server.observe.exceptions import one_line, whole
from batchd_server.observe.hooks import install_hooks
from batchd_server.observe.log_context import serving
from batchd_server.observe.repeats import Repeats

Role = Literal["supervisor", "front", "device"]

# what every record has; the rest came as `extra=` and belongs to the event
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
# control characters, and whatever else some program takes for the end of a line
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN_VALUE = re.compile(r"[^\s\"=]+")


def configure_logging(role: Role, *, level: str, form: Literal["text", "json"]) -> None:
    """Send all that this process has to say to stderr. Called once, before anything is logged."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    tracebacks = root.level <= logging.DEBUG
    handler = LineHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(role) if form == "json" else TextFormatter(role, tracebacks=tracebacks))
    for old in root.handlers:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.captureWarnings(True)
    # these report every request or connection at info: metrics tell that better
    for chatty in ("httpx", "httpcore", "uvicorn.access", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    install_hooks()


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes a line per record, but not the same problem over and over: `suppressed` counts what was left out."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._repeats = Repeats(time.monotonic)

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record`, or count it."""
        left_out = self._repeats.passed(record)
        if left_out is None:
            return
        if left_out:
            record.suppressed = left_out
        super().emit(record)


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
            "message": record.getMessage().rstrip(),
        }
        line |= _details(record)
        error = _exception(record)
        if error is not None:
            line |= {"error": one_line(error), "exception": whole(error)}
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL role[pid]: message key=value: exception`, on one line; with `tracebacks`, whole ones follow it."""

    def __init__(self, role: Role, *, tracebacks: bool = False) -> None:
        super().__init__()
        self._role = role
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        message = record.getMessage().rstrip()
        error = _exception(record)
        if error is not None:
            message += f": {one_line(error)}"
        details = "".join(f" {key}={_value(value)}" for key, value in _details(record).items())
        line = (
            f"{_timestamp(record)} {record.levelname:<7} {self._role}[{record.process}]: {printable(message)}{details}"
        )
        if error is not None and self._tracebacks:
            line += "\n" + "\n".join(printable(part) for part in whole(error).split("\n"))
        return line


def printable(text: str) -> str:
    """Return `text` on one line: what a client or a model said must not begin a line of its own, or move a cursor."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN_VALUE.fullmatch(text) and text.isprintable() else json.dumps(text)


def _exception(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _details(record: logging.LogRecord) -> dict[str, object]:
    details = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return {**details, **{key: value for key, value in serving.get().items() if key not in details}}


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
