"""A learned ladder holds every size, pads least for what came, and moves only for a gain."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd import (
    Admitted,
    Completed,
    Controller,
    Item,
    ItemId,
    Learned,
    ModelPolicy,
    PadTo,
    Proportional,
    RunBatch,
    Shape,
)
from batchd.boundaries import best_buckets
from batchd.learned_ladder import FIRST_AFTER, GAIN, SOLVE_INTERVAL_S, LearnedLadder

SIZES = st.lists(st.integers(0, 5000), min_size=1, max_size=40)
WISHES = st.builds(Learned, st.one_of(st.none(), st.integers(1, 12)), st.sampled_from((1, 4, 16)))
ANY_SIZE = st.one_of(st.integers(0, 6000), st.sampled_from((10**6, 10**9 + 7)))


def taught(wanted: Learned, sizes: list[int], now: float = 0.0) -> LearnedLadder:
    ladder = LearnedLadder(wanted)
    teach(ladder, [(size,) for size in sizes], now)
    return ladder


def teach(ladder: LearnedLadder, shapes: list[Shape], now: float) -> None:
    for number in range(max(FIRST_AFTER, len(shapes))):
        ladder.observe(shapes[number % len(shapes)], now)


def padding_ratio(rungs: list[tuple[int, int]]) -> float:
    """The share of padding in (size, rung) pairs."""
    return 1 - sum(size for size, _ in rungs) / sum(rung for _, rung in rungs)


@given(wanted=WISHES, sizes=SIZES, size=ANY_SIZE, other=ANY_SIZE)
def test_every_size_has_a_rung_that_holds_it(wanted: Learned, sizes: list[int], size: int, other: int) -> None:
    ladder = taught(wanted, sizes)
    (edges,) = ladder.edges
    assert edges == tuple(sorted(set(edges)))
    assert all(edge % wanted.step == 0 for edge in edges)
    assert edges[-1] >= max(sizes)
    assert wanted.num_rungs is None or len(edges) <= wanted.num_rungs
    (rung,), (higher,) = ladder.padded((size,)), ladder.padded((max(size, other),))
    assert max(1, size) <= rung <= higher
    assert ladder.padded((rung,)) == (rung,)
    assert rung % wanted.step == 0
    if size > edges[-1]:  # beyond the last edge an eighth is lost at most, and a step
        assert rung < size * 9 / 8 + 2 * wanted.step


@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=40), parts=st.sampled_from((1, 2, 4, 8)))
def test_no_proportional_ladder_of_as_many_rungs_pads_less(sizes: list[int], parts: int) -> None:
    rungs = {Proportional(parts).rung(size) for size in sizes}
    (edges,) = taught(Learned(len(rungs)), sizes).edges
    learned = [(size, min(edge for edge in edges if edge >= size)) for size in sizes]
    proportional = [(size, Proportional(parts).rung(size)) for size in sizes]
    # the sketch knows sizes to 2 %: its edges are best for what it knows
    assert padding_ratio(learned) <= padding_ratio(proportional) + GAIN


@given(num_rungs=st.integers(1, 12), sizes=SIZES, later=SIZES)
def test_edges_move_for_a_gain_and_for_nothing_else(num_rungs: int, sizes: list[int], later: list[int]) -> None:
    wanted = Learned(num_rungs)
    ladder, before = taught(wanted, sizes), LearnedLadder(wanted)
    teach(ladder, [(size,) for size in later], 1.0)  # within the minute: only counted
    before.load_state_dict(ladder.state_dict())
    ladder.observe((later[0],), SOLVE_INTERVAL_S)
    counts = dict(ladder.state_dict()["axes"][0]["sizes"]["counts"])
    data = sum(size * count for size, count in counts.items())
    padded = sum(before.padded((size,))[0] * count for size, count in counts.items())
    gain = (1 - data / padded) - best_buckets(counts, num_rungs).padding_ratio
    assert (ladder.edges != before.edges) == (gain > GAIN)


@given(wanted=WISHES, sizes=SIZES, later=SIZES, elapsed=st.floats(0, SOLVE_INTERVAL_S, exclude_max=True))
def test_edges_stay_for_a_minute(wanted: Learned, sizes: list[int], later: list[int], elapsed: float) -> None:
    ladder = taught(wanted, sizes, now=5.0)
    before = ladder.edges
    teach(ladder, [(size,) for size in later], 5.0 + elapsed)
    assert ladder.edges == before


def test_edges_follow_the_traffic_and_only_then() -> None:
    rng = random.Random(1)
    short, long = ([int(rng.lognormvariate(math.log(median), 0.5)) + 1 for _ in range(20_000)] for median in (20, 200))
    ladder = taught(Learned(4), short)
    ((*_, last),) = ladder.edges
    assert last < 400
    teach(ladder, [(size,) for size in short], 2 * SOLVE_INTERVAL_S)
    assert ladder.edges[0][-1] >= last
    teach(ladder, [(size,) for size in long], 4 * SOLVE_INTERVAL_S)
    ladder.observe((200,), 6 * SOLVE_INTERVAL_S)
    (edges,) = ladder.edges
    best = best_buckets({size: float(long.count(size)) for size in set(long)}, 4)
    reached = padding_ratio([(size, ladder.padded((size,))[0]) for size in long])
    assert reached <= best.padding_ratio + GAIN + 0.02
    assert len(edges) == 4


def test_every_dimension_has_edges_of_its_own() -> None:
    ladder = LearnedLadder(Learned(2))
    teach(ladder, [(10, 40), (50, 30), (10, 40), (10, 30)], 0.0)
    assert ladder.edges == ((10, 50), (30, 40))
    assert ladder.padded((11, 31)) == (50, 40)


def test_a_few_items_teach_nothing() -> None:
    ladder = LearnedLadder(Learned(2))
    for _ in range(FIRST_AFTER - 1):
        ladder.observe((7,), 1e9)
    assert ladder.edges == ((),)
    assert ladder.padded((1003,)) == Proportional().padded((1003,)) == Learned(2).padded((1003,))


@given(wanted=WISHES, sizes=SIZES, size=ANY_SIZE)
def test_what_was_learned_survives_a_restart(wanted: Learned, sizes: list[int], size: int) -> None:
    ladder, again = taught(wanted, sizes), LearnedLadder(wanted)
    again.load_state_dict(json.loads(json.dumps(ladder.state_dict())))
    assert again.edges == ladder.edges
    assert again.padded((size,)) == ladder.padded((size,))
    saved, kept = again.state_dict(), ladder.state_dict()
    for one, other in zip(saved.pop("axes"), kept.pop("axes"), strict=True):
        assert dict(one["sizes"]["counts"]) == pytest.approx(dict(other["sizes"]["counts"]))
    assert saved == kept
    again.observe((size,), 0.0)  # solves at once: the same sizes must not move an edge by themselves
    assert len(again.edges[0]) <= (wanted.num_rungs or 32)


def test_what_was_learned_under_another_wish_is_void() -> None:
    state = taught(Learned(3), [5, 50, 500]).state_dict()
    for wanted in (Learned(2), Learned(3, 8), Learned()):
        ladder = LearnedLadder(wanted)
        ladder.load_state_dict(state)
        assert ladder.edges == ()


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"step": 1, "num_rungs": 3, "num_items": 1, "axes": 5},
        {"step": 1, "num_rungs": 3, "num_items": "x", "axes": []},
        {"step": 1, "num_rungs": 3, "num_items": 1, "axes": [{"edges": [3, 3], "sizes": {"counts": []}}]},
        {"step": 1, "num_rungs": 3, "num_items": 1, "axes": [{"edges": [0], "sizes": {"counts": []}}]},
        {"step": 1, "num_rungs": 3, "num_items": 1, "axes": [{"edges": [3], "sizes": {"counts": [[0, 1]]}}]},
        {"step": 1, "num_rungs": 3, "num_items": 1, "axes": [{"edges": [3], "sizes": {"counts": [[1, -1]]}}]},
        {"step": 1, "num_rungs": 3, "num_items": 1, "axes": [{"edges": [3], "sizes": {}}]},
    ],
)
def test_a_state_that_is_none_is_refused_and_changes_nothing(state: dict[str, object]) -> None:
    ladder = taught(Learned(3), [5, 50, 500])
    before = ladder.edges
    with pytest.raises(ValueError, match="not a learned ladder's state"):
        ladder.load_state_dict(state)
    assert ladder.edges == before


@pytest.mark.parametrize("wish", [{"num_rungs": 0}, {"step": 0}])
def test_a_wish_that_cannot_be_met_is_refused(wish: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Learned(**wish)


def test_who_waits_keeps_its_rung_and_newcomers_take_the_new_one() -> None:
    controller = Controller()
    controller.add_model("m", ModelPolicy(ladder=Learned(1), pad_to=PadTo.RUNG, max_batch_size=1, max_queue_size=10**6))
    shapes: list[Shape] = []
    for number in range(FIRST_AFTER + 1):
        item = Item(id=ItemId(number), model="m", shape=(100,), arrived=0.0, deadline=1e6 + number)
        assert isinstance(controller.offer(item, 0.0), Admitted)
    for _ in range(FIRST_AFTER + 1):
        batch = controller.next(0.0)
        assert isinstance(batch, RunBatch)
        shapes.append(batch.padded_shape)
        controller.report(Completed(batch_id=batch.batch_id, seconds=0.01, peak_bytes=None))
    assert shapes == [(104,)] * FIRST_AFTER + [(100,)]
    assert controller.snapshot(0.0).models[0].edges == ((100,),)
    other = Controller()
    other.add_model("m", ModelPolicy(ladder=Learned(1)))
    other.load_state_dict("m", json.loads(json.dumps(controller.state_dict("m"))))
    assert other.snapshot(0.0).models[0].edges == ((100,),)
