"""What the front that answers knows of itself: a leak shows here first."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from batchd_server.front.service import Front

_STATM = Path("/proc/self/statm")


def front_status(front: Front) -> dict[str, Any]:
    """Return connections, requests, tasks and memory of this process.

    `requests` are being worked on, this one among them, and of them `pending` wait for the device process. `ended`
    counts the connections that a limit has ended, by the limit, and `shed` the requests that were refused without
    asking the device process.
    """
    return {
        "pid": os.getpid(),
        "connections": front.watch.num_open,
        "requests": len(front.watch.requests),
        "pending": front.dispatcher.num_pending(),
        "incoming_bytes": front.incoming.held,
        "tasks": len(asyncio.all_tasks()),
        "rss_bytes": _resident_bytes(),
        "shed": front.shedding.num_turned_away,
        "ended": dict(sorted(front.watch.ended.items())),
    }


def _resident_bytes() -> int | None:
    """Resident set of this process; None where there is no /proc. Source: proc(5), statm, second field, in pages."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
