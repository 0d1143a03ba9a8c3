"""What the supervisor hands to the processes it starts: one private JSON file, read once at their start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from batchd_server.config.settings import Settings


class Bootstrap(BaseModel):
    """The checked settings and the process's place among the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: Settings
    link_address: str
    """`ipc://...` in the private runtime directory; the device process binds it, fronts connect."""
    front_index: int | None = None
    """Which front process this is; None in the device process."""
    listen_fd: int | None = None
    """The inherited listening socket; None in the device process."""
    serves_file: Path | None = None
    """What a front process makes once it serves; None in the device process."""
    config_source: str = "default configuration"
    """Where the settings come from, for messages about them."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        """Write to `path`, readable by its owner alone; where that fails, what was there stays.

        Raises:
            OSError: it cannot be written.
        """
        part = path.with_name(f"{path.name}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self.model_dump_json())
        part.replace(path)
