"""Memory of the host as this process may use it: cgroup v2, else v1, else the machine, and the process's own share.

Paths are relative to `root`, so that tests bring their own /proc and /sys. Must not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED_V1 = 2**60
"""Version 1 spells "no limit" as the largest page-aligned 63-bit number; nobody has an exbibyte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Bytes that this process could ever use, and what of that is in use; None where nothing tells."""

    limit: int | None
    used: int | None

    @property
    def free(self) -> int | None:
        """What is left below the limit."""
        if self.limit is None or self.used is None:
            return None
        return max(0, self.limit - self.used)


class HostProbe:
    """Reads /proc and the cgroup files; a missing or malformed file is a missing reading."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._page_size = os.sysconf("SC_PAGE_SIZE")

    def read(self) -> HostMemory:
        """Return the tightest of the machine and every cgroup above this process."""
        candidates = [memory for memory in (self._machine(), *self._cgroups()) if memory.limit is not None]
        if not candidates:
            return HostMemory(limit=None, used=None)
        known = [memory for memory in candidates if memory.free is not None]
        return min(known, key=lambda memory: memory.free or 0) if known else candidates[0]

    def resident(self) -> int | None:
        """Return this process's resident set in bytes."""
        fields = (self._text("proc/self/statm") or "").split()
        return int(fields[1]) * self._page_size if len(fields) > 1 and fields[1].isdigit() else None

    def cpus(self) -> float | None:
        """Return the processors that the cgroup's quota grants; None = no quota."""
        quotas = []
        for directory in self._directories("", "sys/fs/cgroup"):
            fields = (self._text(f"{directory}/cpu.max") or "").split()
            if len(fields) == 2 and all(field.isdigit() for field in fields):
                quotas.append(int(fields[0]) / int(fields[1]))
        for directory in self._directories("cpu", "sys/fs/cgroup/cpu"):
            quota, period = (self._number(f"{directory}/cpu.cfs_{name}_us") for name in ("quota", "period"))
            if quota is not None and quota > 0 and period:
                quotas.append(quota / period)
        return min(quotas, default=None)

    def _machine(self) -> HostMemory:
        kibibytes = {}
        for line in (self._text("proc/meminfo") or "").splitlines():
            name, _, rest = line.partition(":")
            value = rest.split()
            if value and value[0].isdigit():
                kibibytes[name] = int(value[0])
        total, available = kibibytes.get("MemTotal"), kibibytes.get("MemAvailable")
        return HostMemory(
            limit=None if total is None else total * 1024,
            used=None if total is None or available is None else (total - available) * 1024,
        )

    def _cgroups(self) -> Iterator[HostMemory]:
        for directory in self._directories("", "sys/fs/cgroup"):
            limit = self._number(f"{directory}/memory.max")
            if limit is not None:
                yield HostMemory(limit=limit, used=self._used(directory, "memory.current", "inactive_file"))
        for directory in self._directories("memory", "sys/fs/cgroup/memory"):
            limit = self._number(f"{directory}/memory.limit_in_bytes")
            if limit is not None and limit < UNLIMITED_V1:
                yield HostMemory(
                    limit=limit, used=self._used(directory, "memory.usage_in_bytes", "total_inactive_file")
                )

    def _used(self, directory: str, usage: str, reclaimable: str) -> int | None:
        """Return the usage less the page cache that the kernel would give back at once."""
        current = self._number(f"{directory}/{usage}")
        if current is None:
            return None
        for line in (self._text(f"{directory}/memory.stat") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == reclaimable and value.isdigit():
                return max(0, current - int(value))
        return current

    def _directories(self, controller: str, mount: str) -> Iterator[str]:
        """Yield this process's cgroup and those above it; the mount itself where the path is the host's, not ours."""
        for line in (self._text("proc/self/cgroup") or "").splitlines():
            fields = line.split(":", 2)
            if len(fields) == 3 and controller in fields[1].split(","):
                parts = [part for part in fields[2].split("/") if part and part != ".."]
                for depth in range(len(parts), -1, -1):
                    yield "/".join([mount, *parts[:depth]])
                return

    def _number(self, path: str) -> int | None:
        text = (self._text(path) or "").strip()
        return int(text) if text.lstrip("-").isdigit() else None

    def _text(self, path: str) -> str | None:
        try:
            return (self._root / path).read_text()
        except (OSError, ValueError):
            return None
