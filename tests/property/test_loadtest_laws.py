"""Laws of the load generator's pure parts."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchd_client.infer_codec import HEADER_LENGTH
from batchd_client.loadtest.arrivals import Arrivals, arrival_times
from batchd_client.loadtest.lengths import LogNormal, Stepped, Uniform
from batchd_client.loadtest.rate_search import RateSearch, Trial
from batchd_client.loadtest.recorded_trace import parse_trace
from batchd_client.loadtest.tensor_payloads import tensor_payloads
from batchd_client.metadata import ModelMetadata, TensorMetadata
from batchd_client.tensor_codec import WIRE_DTYPES

rates = st.floats(0.5, 500.0)
seeds = st.integers(0, 2**32 - 1)
arrivals = st.builds(Arrivals, kind=st.sampled_from(["poisson", "constant", "gamma"]), cv=st.floats(0.2, 4.0))


@given(law=arrivals, rate=rates, seed=seeds, duration_s=st.floats(0.01, 5.0))
def test_arrivals_lie_in_order_within_the_duration(law: Arrivals, rate: float, seed: int, duration_s: float) -> None:
    times = arrival_times(law, rate, np.random.default_rng(seed), duration_s=duration_s)
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times < duration_s)).all()


@given(low=st.integers(1, 100), spread=st.integers(0, 400), step=st.integers(1, 64), seed=seeds)
def test_stepped_lengths_are_multiples_less_than_a_step_above_their_bounds(
    low: int, spread: int, step: int, seed: int
) -> None:
    for inner in (Uniform(low, low + spread), LogNormal(24.0, 1.0, low, low + spread)):
        drawn = Stepped(inner, step).sample(np.random.default_rng(seed), 50)
        assert (drawn % step == 0).all()
        assert ((drawn >= low) & (drawn < low + spread + step)).all()


@given(limit=st.floats(0.2, 15_000.0), start=st.floats(0.2, 15_000.0), growth=st.floats(1.2, 8.0))
def test_a_search_ends_within_its_tolerance_below_any_limit(limit: float, start: float, growth: float) -> None:
    search = RateSearch(start=start, growth=growth)
    trials: list[Trial] = []
    while (rate := search.next_rate(trials)) is not None:
        trials.append(Trial(rate, rate <= limit))
        assert len(trials) < 100
    best, _ = search.bracket(trials)
    assert best is not None
    assert limit / 1.05 - 1e-9 <= best <= limit


@given(outcomes=st.lists(st.booleans(), max_size=40), start=st.floats(0.2, 15_000.0))
def test_whatever_the_trials_say_a_search_narrows_and_never_contradicts_itself(
    outcomes: list[bool], start: float
) -> None:
    search = RateSearch(start=start)
    trials: list[Trial] = []
    for passed in outcomes:
        rate = search.next_rate(trials)
        if rate is None:
            break
        low, high = search.bracket(trials)
        assert search.floor <= rate <= search.ceiling
        assert (low or 0.0) <= rate <= (high or math.inf)
        trials.append(Trial(rate, passed))
    low, high = search.bracket(trials)
    assert low is None or high is None or low < high


@given(rows=st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 512)), min_size=1, max_size=50))
def test_a_trace_keeps_every_row_and_starts_at_zero(rows: list[tuple[float, int]]) -> None:
    parsed = parse_trace(f'{{"t_s": {at!r}, "size": {size}}}' for at, size in rows)
    assert parsed[0].at == 0.0
    assert sorted(row.size or 0 for row in parsed) == sorted(size for _, size in rows)
    assert all(first.at <= second.at for first, second in pairwise(parsed))


axes = st.lists(st.sampled_from([-1, 1, 3, 8]), max_size=3)
tensors = st.lists(st.tuples(st.sampled_from([*WIRE_DTYPES, "BYTES"]), axes), min_size=1, max_size=3)


@given(tensors=tensors, items=st.integers(1, 3), seed=seeds)
def test_made_up_tensors_have_the_shapes_that_the_metadata_declares(
    tensors: list[tuple[str, list[int]]], items: int, seed: int
) -> None:
    inputs = tuple(
        TensorMetadata(name=f"x{index}", datatype=datatype, shape=(-1, *shape))
        for index, (datatype, shape) in enumerate(tensors)
    )
    metadata = ModelMetadata(name="m", versions=("1",), platform="p", inputs=inputs, outputs=())
    factory = tensor_payloads(metadata, Uniform(1, 6))
    first, again = (factory.make(np.random.default_rng(seed), items=items) for _ in range(2))
    assert first.body == again.body
    head = _head(first.headers[HEADER_LENGTH], first.body)
    lengths: dict[int, set[int]] = {}
    for declared, sent in zip(inputs, head["inputs"], strict=True):
        assert sent["datatype"] == declared.datatype
        assert sent["shape"][0] == items
        for axis, (wanted, got) in enumerate(zip(declared.shape, sent["shape"], strict=True)):
            assert wanted in (-1, got)
            if wanted == -1:
                lengths.setdefault(axis, set()).add(got)
    assert all(len(found) == 1 for found in lengths.values())


def _head(length: str, body: bytes) -> dict[str, list[dict[str, list[int] | str]]]:
    import json

    head: dict[str, list[dict[str, list[int] | str]]] = json.loads(body[: int(length)])
    return head
