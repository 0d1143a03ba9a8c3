"""The Prometheus families of the daemon, every one documented in docs/metrics.md.

All live in the device process: front processes ship what they saw. This module only counts; it must not know what the
controller decides by. Base units throughout: seconds, bytes, ratios from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from batchd_server.device.memory.telemetry import Telemetry
from batchd_server.observe import buckets
from batchd_server.observe.lease_metrics import LeaseMetrics

NAMESPACE = "batchd"


class RequestMetrics:
    """What clients saw, and what became of items."""

    def __init__(self, registry: CollectorRegistry, latency: tuple[float, ...]) -> None:
        def histogram(name: str, text: str, edges: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, ["model"], namespace=NAMESPACE, registry=registry, buckets=edges)

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(name, text, labels, namespace=NAMESPACE, registry=registry)

        self.requests = counter("requests", "Finished requests.", ["model", "api", "outcome"])
        self.duration = histogram("request_duration_seconds", "Request read to answer encoded.", latency)
        self.overhead = histogram("request_overhead_seconds", "Duration less queueing and computing.", latency)
        self.queue = histogram("request_queue_seconds", "Arrival to launch, per item.", latency)
        self.compute = histogram("request_compute_seconds", "Collation to outputs on the host, per item.", latency)
        self.slack = histogram("deadline_slack_seconds", "Deadline less completion, per item.", buckets.SLACK_S)
        self.slo = counter("slo_requests", "Requests computed, by whether all of it was in time.", ["model", "met"])
        self.refused = counter("items_refused", "Items not admitted.", ["model", "reason"])
        self.connections_ended = counter("connections_ended", "Connections ended by a limit.", ["limit"])
        self.expired = counter("items_expired", "Items whose deadline passed in the queue.", ["model"])


class BatchMetrics:
    """What the device did."""

    def __init__(self, registry: CollectorRegistry, latency: tuple[float, ...]) -> None:
        def histogram(name: str, text: str, edges: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, ["model"], namespace=NAMESPACE, registry=registry, buckets=edges)

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(name, text, labels, namespace=NAMESPACE, registry=registry)

        self.batches = counter("batches", "Batches launched, by why they were released.", ["model", "trigger"])
        self.size = histogram("batch_size_items", "Items per batch.", buckets.BATCH_ITEMS)
        self.wait = histogram("batch_wait_seconds", "Wait of a batch's oldest item.", latency)
        self.execution = histogram("batch_execution_seconds", "Collation to outputs on the host.", latency)
        self.padding = histogram("batch_padding_ratio", "Padded elements that carry no data.", buckets.RATIO)
        self.elements = counter("batch_elements", "Elements launched, by whether they carry data.", ["model", "kind"])
        self.failures = counter("batch_failures", "Batches in which the model raised.", ["model"])
        self.latency_error = histogram(
            "latency_model_prediction_error_seconds", "Predicted less measured.", buckets.ERROR_S
        )
        self.memory_error = histogram(
            "memory_model_prediction_error_bytes", "Predicted bound less measured peak.", buckets.ERROR_BYTES
        )
        self.oom = counter("oom_events", "Batches that ran out of device memory.", ["model", "phase"])
        self.oom_recovered = counter(
            "oom_recoveries", "Of these, batches whose items wait again for a smaller one.", ["model", "phase"]
        )


class QueueMetrics:
    """What waits; set when the metrics are asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["model"], namespace=NAMESPACE, registry=registry)

        self.depth = gauge("queue_depth_items", "Items that wait.")
        self.oldest = gauge("queue_oldest_age_seconds", "Age of the oldest waiting item.")
        self.ready = gauge("model_ready", "1 where the model serves.")
        self.in_flight = Gauge(
            "in_flight_items", "Items admitted and not answered.", namespace=NAMESPACE, registry=registry
        )


class MemoryMetrics:
    """The device and its host; a figure that nothing tells is absent, never 0."""

    def __init__(self, registry: CollectorRegistry, device: str) -> None:
        self._device = device

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["device"], namespace=NAMESPACE, registry=registry)

        self._total = gauge("device_memory_total_bytes", "Memory of the device.")
        self._used = gauge("device_memory_used_bytes", "Memory in use by all processes.")
        self._reserved = gauge("device_memory_reserved_bytes", "Memory held by this process's allocator.")
        self._allocated = gauge("device_memory_allocated_bytes", "Memory resident while no batch runs.")
        self._budget = gauge("device_memory_budget_bytes", "Memory that this process may hold in all.")
        self._headroom = gauge("device_memory_headroom_bytes", "Memory that one batch may take over what is resident.")
        self._utilization = gauge("device_utilization_ratio", "Share of time with some kernel running, as NVML says.")
        self._power = gauge("device_power_watts", "Power draw.")
        self._temperature = gauge("device_temperature_celsius", "Temperature.")
        self._host_used = gauge("host_memory_used_bytes", "Host memory in use, less reclaimable page cache.")
        self._host_limit = gauge("host_memory_limit_bytes", "Host memory that the cgroup or machine allows.")

    def show(self, telemetry: Telemetry, budget: int | None, headroom: int | None) -> None:
        """Take over one look at the device."""
        memory = telemetry.memory
        for gauge, value in (
            (self._total, memory.total),
            (self._used, telemetry.device_used),
            (self._reserved, memory.reserved),
            (self._allocated, memory.allocated),
            (self._budget, budget),
            (self._headroom, headroom),
            (self._utilization, telemetry.utilization),
            (self._power, telemetry.power_watts),
            (self._temperature, telemetry.temperature_celsius),
            (self._host_used, telemetry.host_used),
            (self._host_limit, telemetry.host_limit),
        ):
            if value is None:
                gauge.clear()
            else:
                gauge.labels(self._device).set(value)


class Metrics:
    """All families, on a registry of their own."""

    def __init__(self, *, version: str, torch_version: str, device: str, slos_s: Iterable[float] = ()) -> None:
        # Otherwise every counter has a twin that holds its birthday.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        latency = buckets.latency_edges(slos_s)
        self.requests = RequestMetrics(self.registry, latency)
        self.batches = BatchMetrics(self.registry, latency)
        self.queue = QueueMetrics(self.registry)
        self.memory = MemoryMetrics(self.registry, device)
        self.leases = LeaseMetrics(self.registry, NAMESPACE, device)
        self.restarts = Counter(
            "device_restarts",
            "Device processes of this daemon that ended and were replaced.",
            namespace=NAMESPACE,
            registry=self.registry,
        )
        self.training_paused = Gauge(
            "training_paused",
            "1 where all training rests because what it learns cannot be kept.",
            ["reason"],
            namespace=NAMESPACE,
            registry=self.registry,
        )
        info = Gauge(
            "build_info",
            "Always 1; the labels say what runs.",
            ["version", "torch", "device"],
            namespace=NAMESPACE,
            registry=self.registry,
        )
        info.labels(version, torch_version, device).set(1)

    def exposition(self) -> str:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry).decode()
