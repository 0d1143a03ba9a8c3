"""The Prometheus families of lending the device to training, documented in docs/metrics.md."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge

from batchd.leasing.lease_snapshot import LeaseSnapshot


class LeaseMetrics:
    """Follows the controller's own counts; absent under a classic policy, which never lends the device."""

    def __init__(self, registry: CollectorRegistry, namespace: str, device: str) -> None:
        self._device = device

        def counter(name: str, text: str, label: str) -> Counter:
            return Counter(name, text, [label], namespace=namespace, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["device"], namespace=namespace, registry=registry)

        self._granted = counter("training_leases", "Times that the device was lent.", "quantum")
        self._seconds = counter("training_lease_seconds", "Device time that was lent.", "quantum")
        self._denials = counter("training_denials", "Times that the device was not lent.", "reason")
        self._scale = gauge("training_slack_scale_ratio", "Share of the slack that is lent.")
        self._slack = gauge("training_slack_seconds", "For how long the device could be spared.")
        self._share = gauge("training_device_share_ratio", "Training's share of the recent time.")
        self._last: dict[tuple[Counter, str], float] = {}  # of the counters, which only grow

    def show(self, leases: LeaseSnapshot | None) -> None:
        """Take over one look at the leases."""
        if leases is None:
            return
        for quantum, number in leases.granted.items():
            self._grow(self._granted, quantum.value, number)
        for quantum, seconds in leases.seconds.items():
            self._grow(self._seconds, quantum.value, seconds)
        for reason, number in leases.denials.items():
            self._grow(self._denials, reason.value, number)
        self._scale.labels(self._device).set(leases.scale)
        self._share.labels(self._device).set(leases.share)
        if leases.tenants and leases.slack_s < math.inf:
            self._slack.labels(self._device).set(leases.slack_s)
        else:
            self._slack.clear()

    def _grow(self, counter: Counter, label: str, total: float) -> None:
        """Bring a counter up to `total`."""
        counter.labels(label).inc(total - self._last.get((counter, label), 0.0))
        self._last[counter, label] = total
