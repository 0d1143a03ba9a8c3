"""Arrivals, lengths, plans and traces: what is drawn before anything is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchd_client.loadtest.arrivals import Arrivals, arrival_times, parse_arrivals
from batchd_client.loadtest.lengths import parse_lengths
from batchd_client.loadtest.load import ClosedLoad, OpenLoad
from batchd_client.loadtest.payload import Payload, payload_pool, plan_requests
from batchd_client.loadtest.recorded_trace import parse_trace, plan_trace


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Factory:
    """Payloads whose body tells what was asked for."""

    def make(
        self, rng: np.random.Generator, *, size: int | None = None, items: int = 1, deadline_s: float | None = None
    ) -> Payload:
        drawn = int(rng.integers(1, 9)) if size is None else size
        return Payload(path="/x", body=f"{drawn} {items} {deadline_s}".encode(), size=drawn, items=items)


@pytest.mark.parametrize("spec", ["poisson", "constant", "gamma:2", "gamma:0.5"])
def test_the_same_seed_gives_the_same_schedule_and_another_seed_another(spec: str) -> None:
    arrivals = parse_arrivals(spec)
    first, again, other = (arrival_times(arrivals, 50.0, rng(seed), duration_s=10.0) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert spec == "constant" or not np.array_equal(first, other)


@pytest.mark.parametrize(("spec", "cv"), [("constant", 0.0), ("poisson", 1.0), ("gamma:2", 2.0), ("gamma:0.5", 0.5)])
def test_gaps_have_the_mean_and_the_variation_that_were_asked_for(spec: str, cv: float) -> None:
    gaps = np.diff(arrival_times(parse_arrivals(spec), 100.0, rng(), count=200_000))
    assert gaps.mean() == pytest.approx(0.01, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-9)


def test_a_duration_and_a_count_both_limit_a_schedule() -> None:
    times = arrival_times(Arrivals(kind="constant"), 10.0, rng(), duration_s=1.05, count=100)
    assert len(times) == 10
    assert times[-1] < 1.05
    assert len(arrival_times(Arrivals(kind="constant"), 10.0, rng(), duration_s=100.0, count=7)) == 7


@pytest.mark.parametrize("text", ["", "gamma", "gamma:0", "gamma:x", "gamma:nan", "poisson:2", "burst"])
def test_an_unknown_arrival_law_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="arrivals") as caught:
        parse_arrivals(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [("fixed:7", 7, 7), ("uniform:3:9", 3, 9), ("lognormal:24:0.8:1:256", 1, 256), ("bimodal:0.5:1:4:100:104", 1, 104)],
)
def test_lengths_stay_within_their_bounds(spec: str, low: int, high: int) -> None:
    drawn = parse_lengths(spec).sample(rng(), 5000)
    assert drawn.min() >= low
    assert drawn.max() <= high
    assert low == high or len(set(drawn.tolist())) > 3


def test_a_lognormal_has_the_median_that_its_spec_names() -> None:
    assert np.median(parse_lengths("lognormal:24:0.8:1:256").sample(rng(), 20_000)) == pytest.approx(24, abs=1)


def test_a_bimodal_draws_the_first_range_as_often_as_its_probability() -> None:
    drawn = parse_lengths("bimodal:0.8:1:4:100:104").sample(rng(), 20_000)
    assert (drawn <= 4).mean() == pytest.approx(0.8, abs=0.02)
    assert not ((drawn > 4) & (drawn < 100)).any()


def test_a_step_rounds_lengths_up_to_its_multiples() -> None:
    drawn = parse_lengths("uniform:1:24", step=8).sample(rng(), 1000)
    assert set(drawn.tolist()) == {8, 16, 24}


def test_lengths_come_from_the_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("3\n5\n\n5\n")
    assert set(parse_lengths(f"file:{path}").sample(rng(), 200).tolist()) == {3, 5}


@pytest.mark.parametrize(
    "spec",
    ["", "fixed", "fixed:0", "uniform:9:3", "uniform:1", "lognormal:24:0.8", "bimodal:2:1:2:3:4", "file:/nowhere/x"],
)
def test_a_bad_length_spec_is_refused_by_name(spec: str) -> None:
    with pytest.raises(ValueError, match="lengths"):
        parse_lengths(spec)


def test_a_warm_up_comes_before_the_measured_arrivals_and_does_not_change_their_number() -> None:
    times, span_s = OpenLoad(rate=100.0, count=50, warmup_s=2.0).schedule(rng())
    assert (times >= 2.0).sum() == 50
    assert (times < 2.0).sum() > 100
    assert span_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.0, "count": 1},
        {"rate": 1.0},
        {"rate": 1.0, "duration_s": -1.0},
        {"rate": 1.0, "count": 1, "warmup_s": -1.0},
    ],
)
def test_a_load_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|give"):
        OpenLoad(**wrong)  # type: ignore[arg-type]


def test_a_closed_load_needs_a_user() -> None:
    with pytest.raises(ValueError, match="concurrency"):
        ClosedLoad(concurrency=0, count=1)


def test_every_arrival_gets_a_payload_and_the_choice_follows_the_seed() -> None:
    payloads = payload_pool(Factory(), rng(), count=8)
    times = np.arange(100, dtype=np.float64)
    first, again = (plan_requests(times, payloads, rng(3), deadline_s=0.2) for _ in range(2))
    assert [request.at for request in first] == times.tolist()
    assert all(one.payload is other.payload for one, other in zip(first, again, strict=True))
    assert len({id(request.payload) for request in first}) == 8
    assert {request.deadline_s for request in first} == {0.2}


def test_a_pool_stops_at_its_memory_but_never_empty() -> None:
    assert len(payload_pool(Factory(), rng(), count=100, max_bytes=0)) == 0 + 1
    assert len(payload_pool(Factory(), rng(), count=5)) == 5


def test_a_trace_replays_its_rows_in_order_from_the_first_arrival() -> None:
    lines = [
        '{"t_s": 12.5, "size": 24, "items": 2, "deadline_ms": 150}',
        "",
        '{"t_s": 12.0, "model": "other"}',
    ]
    plan = plan_trace(parse_trace(lines), {"mine": Factory(), "other": Factory()}, "mine", rng(), speed=2.0)
    assert [request.at for request in plan] == [0.0, 0.25]
    assert plan[1].payload.body == b"24 2 0.15"
    assert plan[1].deadline_s == 0.15
    assert plan[0].deadline_s is None


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{}", "t_s"),
        ('{"t_s": true}', "t_s"),
        ('{"t_s": 1, "size": 0}', "size"),
        ('{"t_s": 1, "items": 1.5}', "items"),
        ('{"t_s": 1, "deadline_ms": -5}', "deadline_ms"),
        ('{"t_s": 1, "model": 3}', "model"),
        ("[1]", "object"),
        ("{", "line 2"),
    ],
)
def test_a_bad_trace_line_is_named(line: str, field: str) -> None:
    with pytest.raises(ValueError, match="traffic, line 2") as caught:
        parse_trace(['{"t_s": 0}', line], "traffic")
    assert field in str(caught.value)
