"""What the demonstration asks of the daemon beside answers: its metrics, its status, its processes' memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

KIB = 1024
ELEMENTS = "batchd_batch_elements_total"


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

    metrics: Mapping[str, float]  # by name, summed over labels
    elements: Mapping[str, float]  # launched so far, by kind: "data" or "padding"
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
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    device_pid = (status.get("device") or {}).get("pid")
    pids = [("device process", device_pid), *(("front process", front.get("pid")) for front in status["fronts"])]
    return Readings(
        metrics=_sums((sample.name, sample.value) for sample in samples),
        elements=_sums((sample.labels["kind"], sample.value) for sample in samples if sample.name == ELEMENTS),
        status=status,
        processes=tuple(_process(role, pid) for role, pid in pids if isinstance(pid, int)),
    )


def padding_waste(before: Readings, after: Readings) -> float | None:
    """Return the share of padding in all elements that ran between two looks; None where none did."""
    padding, data = (after.elements.get(kind, 0.0) - before.elements.get(kind, 0.0) for kind in ("padding", "data"))
    return padding / (padding + data) if padding + data > 0 else None


def _sums(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for name, value in pairs:
        sums[name] = sums.get(name, 0.0) + value
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
