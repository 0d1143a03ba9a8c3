"""The Prometheus families: documented, well-formed, and honest about what nothing tells."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from batchd.budget import MemoryReading
from batchd_server.device.memory.telemetry import Telemetry
from batchd_server.observe.metrics import Metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def metrics() -> Metrics:
    return Metrics(version="1.2.3", torch_version="2.13", device="cpu", slos_s=[0.05, 0.123])


def documented() -> set[str]:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `batchd_")]
    return {row.split("`")[1] for row in rows}


def exposed(families: Metrics) -> set[str]:
    names = set()
    for family in families.registry.collect():
        names.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return names


def test_the_document_names_every_family_and_no_other() -> None:
    assert documented() == exposed(metrics())


def test_names_carry_the_prefix_and_base_units() -> None:
    for name in exposed(metrics()):
        assert name.startswith("batchd_")
        assert not name.endswith(("_ms", "_us", "_percent", "_mib", "_created"))


def test_every_slo_is_an_edge_of_the_latency_histograms() -> None:
    families = metrics()
    families.requests.duration.labels("m").observe(0.1)
    text = families.exposition()
    assert 'batchd_request_duration_seconds_bucket{le="0.123",model="m"} 1.0' in text
    assert 'batchd_request_duration_seconds_bucket{le="0.05",model="m"} 0.0' in text
    assert "_created" not in text


def test_a_figure_that_nothing_tells_is_absent_and_comes_and_goes() -> None:
    families = metrics()

    def memory_samples() -> dict[str, float]:
        return {
            sample.name.removeprefix("batchd_device_memory_").removesuffix("_bytes"): sample.value
            for family in text_string_to_metric_families(families.exposition())
            for sample in family.samples
            if sample.name.startswith("batchd_device_memory_")
        }

    families.memory.show(Telemetry(memory=MemoryReading(total=100, reserved=0)), budget=80, headroom=None)
    assert memory_samples() == {"total": 100, "reserved": 0, "budget": 80}
    families.memory.show(Telemetry(memory=MemoryReading(total=100)), budget=None, headroom=5)
    assert memory_samples() == {"total": 100, "headroom": 5}


def test_two_registries_do_not_mix() -> None:
    first, second = metrics(), metrics()
    first.requests.requests.labels("m", "oip", "ok").inc()
    assert 'outcome="ok"' in first.exposition()
    assert 'outcome="ok"' not in second.exposition()
