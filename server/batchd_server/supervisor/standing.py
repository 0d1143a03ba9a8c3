"""How the device process stands, in a file of the runtime directory: the supervisor writes it, anybody may read it.

Front processes tell clients from it why nothing is served; a new device process learns from it how the last one ended.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

import msgspec

FILE = "standing.json"


class DeviceStanding(msgspec.Struct, frozen=True, kw_only=True):
    """The device process as its supervisor sees it."""

    state: Literal["starting", "running", "restarting", "crash_loop"]
    deaths: int = 0
    """Since the daemon started."""
    deaths_in_a_row: int = 0
    """Since it last worked."""
    last_exit: int | None = None
    """Exit code of the last one that ended (negative: the signal); None before the first death."""
    last_pid: int | None = None
    """Its process id."""
    last_death: str = ""
    """The same in words."""
    next_start_s: float | None = None
    """When it is started again, in seconds since the epoch; None while it runs."""

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Return what was last written; None where there is nothing, or nothing that can be understood."""
        try:
            return msgspec.json.decode((directory / FILE).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, directory: Path) -> None:
        """Replace what was written before; a reader sees the one or the other."""
        part = directory / f"{FILE}.part"
        part.write_bytes(msgspec.json.encode(self))
        os.replace(part, directory / FILE)  # noqa: PTH105 - as it says


def directory_of(link_address: str) -> Path:
    """Return the runtime directory that holds the link's socket."""
    return Path(link_address.removeprefix("ipc://")).parent
