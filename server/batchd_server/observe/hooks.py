"""What Python reports outside of logging, brought into it; and the stacks of a process that the kernel ends."""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
from types import TracebackType

_log = logging.getLogger(__name__)


def install_hooks() -> None:
    """Log what ends the process or a thread or cannot be raised; print every thread's stack on a fatal signal.

    The stacks of a segmentation fault go to stderr as plain lines: nothing in such a process can be relied on for more.
    """
    sys.excepthook = _uncaught
    threading.excepthook = _thread_ended
    sys.unraisablehook = _unraisable
    faulthandler.enable(file=sys.stderr, all_threads=True)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    _log.critical("the process ends by an exception that nobody caught", exc_info=(kind, error, trace))


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    name = "?" if ended.thread is None else ended.thread.name
    error = ended.exc_value or ended.exc_type()
    _log.error("the thread %s ended by an exception", name, exc_info=(ended.exc_type, error, ended.exc_traceback))


def _unraisable(ignored: sys.UnraisableHookArgs) -> None:
    error = ignored.exc_value or ignored.exc_type()
    where = ignored.err_msg or "an exception was ignored in"
    name = getattr(ignored.object, "__qualname__", type(ignored.object).__name__)
    _log.warning("%s %s", where, name, exc_info=(ignored.exc_type, error, ignored.exc_traceback))
