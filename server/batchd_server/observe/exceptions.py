"""An exception on one line: its type, what it says, and where in the code that somebody here can change."""

from __future__ import annotations

import os
import sysconfig
import traceback
from importlib.util import find_spec
from pathlib import Path

MAX_TEXT_CHARS = 300
MAX_CAUSES = 2

_OURS = tuple(
    str(Path(spec.origin).parent) + os.sep
    for spec in map(find_spec, ("batchd", "batchd_server"))
    if spec is not None and spec.origin is not None
)
_FOREIGN = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def one_line(error: BaseException) -> str:
    """Return `TypeName: message (file:line in function)`, with what caused it behind.

    The place is the innermost frame outside Python and the installed packages, ours excepted: of batchd, or of the
    user's model. Line ends are for the formatter to escape.
    """
    parts = [_described(error)]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and len(parts) <= MAX_CAUSES:
        parts.append(_described(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return ", from ".join(parts)


def whole(error: BaseException) -> str:
    """Return the traceback as Python prints it, over several lines."""
    return "".join(traceback.format_exception(error)).rstrip("\n")


def _described(error: BaseException) -> str:
    name = type(error).__name__
    text = _text(error)
    place = place_of(error)
    described = f"{name}: {text}" if text else name
    if isinstance(error, BaseExceptionGroup):
        inner: tuple[BaseException, ...] = error.exceptions
        described += f" [{'; '.join(map(_described, inner[:MAX_CAUSES]))}]"
    return f"{described} ({place})" if place else described


def _text(error: BaseException) -> str:
    try:
        text = str(error).strip()
    except Exception as broken:  # noqa: BLE001 - an exception of a user's may be unable to say what it is
        return f"<its text cannot be had: {type(broken).__name__}>"
    return text if len(text) <= MAX_TEXT_CHARS else text[:MAX_TEXT_CHARS] + "..."


def place_of(error: BaseException) -> str:
    """Return `file:line in function` of the frame that `one_line` names; empty where there are no frames."""
    frames = [
        (frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if not frames:
        return ""
    ours = [frame for frame in frames if not _is_foreign(frame[0])]
    file, line, function = (ours or frames)[-1]
    return f"{_short(file)}:{line} in {function}"


def _is_foreign(file: str) -> bool:
    return not file.startswith(_OURS) and file.startswith(("<frozen", *_FOREIGN))


def _short(file: str) -> str:
    package = next((folder for folder in _OURS if file.startswith(folder)), None)
    return file if package is None else os.path.relpath(file, Path(package).parent)
