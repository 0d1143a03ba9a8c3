"""How a stop goes: what the supervisor says to the others, by which signal, and the times that all of them reckon with.

| signal | to a front process | to the device process |
|---|---|---|
| `LEAVE` | the daemon will stop: be not ready, and go on serving | save the training jobs and begin no more of them |
| SIGTERM | refuse what is new, finish what was admitted, end | finish what was admitted and saved, end |
| `RETIRE` | a successor has taken over: accept nobody more, finish, end | |

A process that starts while the daemon stops has missed `LEAVE`, and finds a note of it in the runtime directory.
"""

from __future__ import annotations

import logging
import signal
from pathlib import Path

log = logging.getLogger(__name__)

LEAVE = signal.SIGUSR1
RETIRE = signal.SIGUSR2

ARRIVALS_S = 0.1
"""From the signal to the first refusal: what was on its way by then is still admitted."""
LAST_ANSWERS_S = 2.0
"""Beyond the drain timeout, for a front to write out what then fails with 503."""
SAVE_GRACE_S = 10.0
"""Beyond the drain timeout, for a checkpoint of training to reach the disk."""
IDLE_S = 6.0
"""For which a front that retires keeps idle connections: longer than uvicorn does anyway, which is 5 s."""
END_GRACE_S = 5.0
"""Beyond all of these, for a process to clean up after itself before it is killed."""

_NOTE = "stopping"


def note_stop(directory: Path) -> None:
    """Tell processes that start from now on that the daemon stops; where that cannot be noted, SIGTERM tells them."""
    try:
        (directory / _NOTE).touch()
    except OSError as error:  # a full disk must not end what is to end in order
        log.warning("that the daemon stops cannot be noted: %s", error)


def stop_noted(directory: Path) -> bool:
    """Return whether the daemon stops."""
    return (directory / _NOTE).exists()


def retire_limit_s(drain_timeout_s: float) -> float:
    """Return how long after `RETIRE` a front process goes on serving the connections that it has."""
    return max(drain_timeout_s, IDLE_S)


def save_limit_s(drain_delay_s: float, drain_timeout_s: float) -> float:
    """Return how long after `LEAVE` the device process may still take to save training."""
    return ARRIVALS_S + drain_delay_s + drain_timeout_s + SAVE_GRACE_S
