"""What the demonstration asks of the daemon beside answers: its metrics, its status, its processes' memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Resident bytes of one process, now and at its highest; None where the system does not tell."""

    role: str
    pid: int
    rss: int | None
    peak: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """One look at the daemon."""

    metrics: Mapping[str, float]  # summed over labels other than the model's
    status: Mapping[str, Any]
    processes: tuple[ProcessMemory, ...]

    @property
    def device(self) -> Mapping[str, Any]:
        """What the status says of the device."""
        return self.status.get("device") or {}


def read_daemon(url: str) -> Readings:
    """Ask the daemon at `url`.

    Raises:
        httpx.HTTPError: it does not answer, or not with 200.
    """
    with httpx.Client(base_url=url, timeout=10.0, trust_env=False) as client:
        metrics = client.get("/metrics").raise_for_status().text
        status = client.get("/v1/status").raise_for_status().json()
    device_pid = (status.get("device") or {}).get("pid")
    pids = [("device process", device_pid), *(("front process", front.get("pid")) for front in status["fronts"])]
    return Readings(
        metrics=_sums(metrics),
        status=status,
        processes=tuple(_process(role, pid) for role, pid in pids if isinstance(pid, int)),
    )


def mean_padding(before: Readings, after: Readings) -> float | None:
    """Return the mean padding waste of the batches that ran between two looks; None where none did."""
    total, count = (
        after.metrics.get(name, 0.0) - before.metrics.get(name, 0.0)
        for name in ("batchd_batch_padding_ratio_sum", "batchd_batch_padding_ratio_count")
    )
    return total / count if count > 0 else None


def _sums(text: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def _process(role: str, pid: int) -> ProcessMemory:
    """Read Linux's account of a process: the only one that knows the peak."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return ProcessMemory(role=role, pid=pid, rss=None, peak=None)
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    rss, peak = (int(fields[name][0]) * KIB if name in fields else None for name in ("VmRSS", "VmHWM"))
    return ProcessMemory(role=role, pid=pid, rss=rss, peak=peak)
