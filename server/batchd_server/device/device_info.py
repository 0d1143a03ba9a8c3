"""What the device is called."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """What status pages and metrics call the device."""

    pid: int
    name: str
    kind: Literal["cpu", "cuda", "simulated"]
    index: int | None
    uuid: str | None
    threads: int
    torch: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)
