"""What is read from answers and statistics, and what the report makes of it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from batchd_client.loadtest.answer import timing_of
from batchd_client.loadtest.quantiles import quantiles
from batchd_client.loadtest.render import print_report, print_steps
from batchd_client.loadtest.report import LoadReport, report_of
from batchd_client.loadtest.runner import Recording
from batchd_client.loadtest.sample import NO_TIMING, Sample, ServerTiming
from batchd_client.loadtest.server_statistics import Reading, difference, parse_padding


def sample(response_s: float = 0.01, *, lag_s: float = 0.0, batch_size: float | None = None) -> Sample:
    return Sample(
        scheduled=1.0,
        sent=1.0 + lag_s,
        done=1.0 + response_s,
        outcome="200",
        ok=True,
        answered=True,
        size=8,
        items=1,
        deadline_s=None,
        waited_for_connection=False,
        timing=NO_TIMING if batch_size is None else ServerTiming(batch_size=batch_size, queue_s=0.002),
        message="",
    )


def report(samples: list[Sample], *, slo_s: float | None = None, cpu_share: float | None = 0.1) -> LoadReport:
    recording = Recording(
        measured_from=1.0, span_s=1.0, samples=samples, offered=len(samples), wall_s=1.0, cpu_share=cpu_share
    )
    return report_of(recording, mode="open", slo_s=slo_s)


def test_quantiles_are_numpys() -> None:
    values = np.random.default_rng(0).gamma(2.0, 0.01, 1234)
    summary = quantiles(values.tolist())
    assert summary is not None
    for name, level in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("max", 100)):
        assert getattr(summary, name) == pytest.approx(float(np.percentile(values, level)))
    assert summary.count == 1234
    assert summary.mean == pytest.approx(float(values.mean()))
    assert quantiles([]) is None


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b'{"parameters": {"batch_size": 4, "queue_ms": 1.5, "compute_ms": 20}, "outputs": []}'),
        (
            {"inference-header-content-length": "70"},
            b'{"parameters": {"batch_size": 4, "queue_ms": 1.5, "compute_ms": 20}} ' + b"  \x00\xff",
        ),
    ],
)
def test_the_servers_timing_is_read_from_json_and_binary_answers(headers: dict[str, str], body: bytes) -> None:
    assert timing_of(headers, body) == ServerTiming(batch_size=4.0, queue_s=0.0015, compute_s=0.02)


def test_the_batch_size_is_read_from_the_header_where_the_body_has_none() -> None:
    assert timing_of({"x-batchd-batch-size": "3"}, b'{"data": []}') == ServerTiming(batch_size=3.0)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b'{"parameters": 3}', b'{"parameters": {"batch_size": "x"}}'])
def test_an_answer_that_says_nothing_gives_nothing(body: bytes) -> None:
    assert timing_of({}, body) == NO_TIMING


def statistics(
    inferences: int, executions: int, queue: tuple[int, int], ones: int, padding: tuple[float, float] | None = None
) -> Reading:
    answer = {
        "model_stats": [
            {
                "name": "m",
                "inference_count": inferences,
                "execution_count": executions,
                "inference_stats": {"queue": {"count": queue[0], "ns": queue[1]}},
                "batch_stats": [{"batch_size": 1, "compute_infer": {"count": ones, "ns": 5}}],
            }
        ]
    }
    return Reading(statistics=answer, padding=padding)


def test_the_difference_of_statistics_tells_the_mean_batch_of_the_run() -> None:
    counted = difference(
        statistics(100, 50, (100, 10**9), 20, (40.0, 500.0)), statistics(500, 100, (500, 5 * 10**9), 23, (90.0, 950.0))
    )
    assert counted is not None
    assert counted.mean_batch_size == 8.0
    assert counted.mean_s["queue"] == pytest.approx(0.01)
    assert counted.mean_s["compute_infer"] is None
    assert counted.batch_sizes == {1: 3}
    assert counted.padding_ratio == pytest.approx(0.1)
    json.dumps(counted.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "before", [None, *(Reading(statistics=s) for s in (None, {}, {"model_stats": [{}]})), statistics(900, 1, (0, 0), 0)]
)
def test_statistics_that_are_missing_or_were_reset_give_nothing(before: Reading | None) -> None:
    assert difference(before, statistics(500, 100, (1, 1), 1)) is None


def test_the_padding_of_one_model_is_found_among_the_metrics() -> None:
    metrics = (
        "# TYPE batchd_batch_elements_total counter\n"
        'batchd_batch_elements_total{kind="data",model="m"} 80.0\n'
        'batchd_batch_elements_total{kind="padding",model="m"} 5.0\n'
        'batchd_batch_elements_total{kind="padding",model="m2"} 3.0\n'
    )
    assert parse_padding(metrics, "m") == (5.0, 80.0)
    assert parse_padding(metrics, "m2") == (3.0, 0.0)
    assert parse_padding("", "m") is None


def test_the_first_run_of_a_fresh_daemon_tells_its_padding() -> None:
    fresh = parse_padding("# TYPE batchd_batch_elements_total counter\n", "m")
    counted = difference(statistics(0, 0, (0, 0), 0, fresh), statistics(9, 3, (9, 9), 0, (5.0, 95.0)))
    assert counted is not None
    assert counted.padding_ratio == pytest.approx(0.05)


def test_a_lagging_generator_is_called_out_against_the_slo() -> None:
    late = [sample(lag_s=0.004) for _ in range(1000)]
    assert "could not keep up" in report(late).warnings[0]
    assert report(late).generator_limited
    assert report(late, slo_s=0.05).generator_limited
    assert report(late, slo_s=0.2).warnings == ()


def test_a_generator_that_fills_its_core_is_called_out() -> None:
    assert "busy" in report([sample()] * 1000, cpu_share=0.97).warnings[0]


def test_a_p99_of_few_answers_is_called_out() -> None:
    assert "too few" in report([sample()] * 100).warnings[0]
    assert report([sample()] * 1000).warnings == ()


def test_batches_are_counted_as_requests_saw_them() -> None:
    seen = report([sample(batch_size=1), *[sample(batch_size=4)] * 4]).batches
    assert seen.sizes == {1: 1, 4: 4}
    assert seen.mean_size == pytest.approx(3.4)
    assert seen.queue is not None
    assert seen.queue.p50 == pytest.approx(0.002)


@pytest.mark.parametrize("samples", [[], [sample(batch_size=2)] * 3])
def test_every_report_is_json_and_can_be_printed(samples: list[Sample]) -> None:
    text = json.dumps(report(samples, slo_s=0.05).to_dict(), allow_nan=False)
    assert json.loads(text)["slo_ms"] == 50.0
    out = io.StringIO()
    print_report(Console(file=out, width=100), report(samples, slo_s=0.05))
    assert "goodput (within 50 ms)" in out.getvalue()


def test_the_table_of_a_ramp_fits_a_narrow_terminal_with_slow_answers_too() -> None:
    slow = report([sample(29.876)] * 500, slo_s=0.05)
    out = io.StringIO()
    print_steps(Console(file=out, width=80), [slow, slow])
    assert "29876.0" in out.getvalue()
    assert "\u2026" not in out.getvalue()
