"""File descriptors for as many connections as are allowed."""

from __future__ import annotations

import logging
import resource

from batchd_server.front.connection_watch import MAX_TURNED_AWAY

OTHERS = 256
"""Descriptors for all but connections: the link, the store, datasets that are being received, the log."""

_log = logging.getLogger(__name__)


def allow_descriptors(max_connections: int) -> None:
    """Raise this process's soft limit, so that so many connections find descriptors; warn where that cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + MAX_TURNED_AWAY + OTHERS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        _log.warning(
            "the limit of %d open files leaves less than server.max_connections = %d; raise it (ulimit -n)",
            most,
            max_connections,
        )
