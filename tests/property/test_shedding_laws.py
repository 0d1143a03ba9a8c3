"""What the shedding rule may do, whatever comes: turn away only what is like the refused, and never for long."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from batchd_server.errors import DeadlineInfeasible, QueueFull, ServingError
from batchd_server.front import shedding as rule
from batchd_server.front.shedding import Attempt, Kind, Shedding, TurnedAway, kind_of

KINDS = [
    kind_of(model, form, priority, num_bytes, timeout_s)
    for model in ("a", "b")
    for form, priority, num_bytes, timeout_s in (("oip", 0, 100, None), ("oip", 1, 100, None), ("oip", 0, 9000, 0.5))
]


@dataclass(frozen=True)
class Step:
    """Ask for a kind after some time, and tell what became of an earlier one."""

    after: float
    kind: Kind
    chance: float
    tells: int
    ends: str
    retry_after_s: float | None


steps = st.lists(
    st.builds(
        Step,
        after=st.one_of(st.just(0.0), st.floats(0, 0.02), st.floats(0, 2.0)),
        kind=st.sampled_from(KINDS),
        chance=st.floats(0, 1, exclude_max=True),
        tells=st.integers(0, 5),
        ends=st.sampled_from(["refused", "admitted", "neither", "open"]),
        retry_after_s=st.one_of(st.none(), st.floats(0, 100)),
    ),
    max_size=120,
)


class History:
    """Drives the rule and remembers what it was told."""

    def __init__(self) -> None:
        self.shedding = Shedding()
        self.now = 100.0
        self.refused_at: dict[Kind, float] = {}
        self.refused_with: dict[Kind, ServingError] = {}
        self.open: list[Attempt] = []

    def take(self, step: Step) -> Attempt | TurnedAway:
        self.now += step.after
        verdict = self.shedding.ask(step.kind, self.now, step.chance)
        if isinstance(verdict, Attempt):
            self.open.append(verdict)
        if self.open and step.ends != "open":
            self.tell(self.open.pop(step.tells % len(self.open)), step)
        return verdict

    def tell(self, attempt: Attempt, step: Step) -> None:
        if step.ends != "refused":
            self.shedding.settled(attempt, self.now, admitted=step.ends == "admitted")
            return
        cause = QueueFull if step.tells % 2 else DeadlineInfeasible
        error = cause("no room", retry_after_s=step.retry_after_s)
        pause = self.shedding.refused(attempt, error, self.now, step.chance)
        assert (pause is None) == (step.retry_after_s is None)
        assert pause is None or 0 <= pause <= rule.LONGEST_PAUSE_S
        assert pause is None or pause >= min(step.retry_after_s or 0.0, rule.LONGEST_PAUSE_S)
        self.shedding.settled(attempt, self.now, admitted=False)  # told twice: no news
        self.refused_at[attempt.kind], self.refused_with[attempt.kind] = self.now, error


@given(steps)
def test_only_a_kind_that_was_refused_of_late_is_turned_away(history: list[Step]) -> None:
    seen = History()
    for step in history:
        before = dict(seen.refused_at), dict(seen.refused_with)
        verdict = seen.take(step)
        if isinstance(verdict, TurnedAway):  # neither for another model's sake nor for another priority's
            assert seen.now - before[0][step.kind] <= rule.CALM_S
            last = before[1][step.kind]
            assert (type(verdict.like), verdict.like.code) == (type(last), last.code)
            assert verdict.like.__traceback__ is None
            assert (verdict.retry_after_s is None) == (last.retry_after_s is None)
            assert verdict.retry_after_s is None or 0 <= verdict.retry_after_s <= rule.LONGEST_PAUSE_S


@given(steps)
def test_without_a_refusal_everything_is_let_through(history: list[Step]) -> None:
    seen = History()
    for step in history:
        if step.ends != "refused":
            assert isinstance(seen.take(step), Attempt)
    assert seen.shedding.calm
    assert seen.shedding.num_turned_away == 0


@given(steps, st.sampled_from(KINDS))
def test_every_kind_is_soon_let_through_again(history: list[Step], kind: Kind) -> None:
    seen = History()
    for step in history:
        seen.take(step)
    later = seen.now + max(rule.LONGEST_HOLD_S, rule.LONGEST_DECISION_S) + 1e-6
    assert isinstance(seen.shedding.ask(kind, later, 0.5), Attempt)


@given(steps)
def test_room_that_is_found_lets_more_through(history: list[Step]) -> None:
    """Whatever came before: where everything is admitted, the number let through at a time doubles with each round."""
    seen = History()
    for step in history:
        seen.take(step)
    kind, now = KINDS[0], seen.now
    passed = []
    for _ in range(8):
        now += max(rule.LONGEST_HOLD_S, rule.LONGEST_DECISION_S) + 1e-6
        verdicts = [seen.shedding.ask(kind, now, 0.5) for _ in range(64)]
        passed.append(sum(isinstance(verdict, Attempt) for verdict in verdicts))
    assert passed[-1] == 64
    assert all(later >= min(64, earlier) for earlier, later in pairwise(passed))


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=600))
def test_what_is_remembered_is_bounded(sizes: list[int]) -> None:
    shedding = Shedding()
    for number, num_bytes in enumerate(sizes):
        kind = kind_of("m", f"form {number}", 0, num_bytes, None)
        verdict = shedding.ask(kind, 0.0, 0.0)
        assert isinstance(verdict, Attempt)
        shedding.refused(verdict, QueueFull("no room", retry_after_s=1.0), 0.0, 0.0)
    assert len(shedding._gates) <= rule.MAX_KINDS
    assert not shedding.calm


@given(st.integers(0, 20), st.integers(1, 200))
def test_the_pause_spreads_a_crowd_over_what_serving_it_takes(num_admitted: int, num_refused: int) -> None:
    shedding = Shedding()
    for _ in range(num_admitted):
        shedding.admitted("a", 0.0)
    attempt = Attempt(KINDS[0], 0.0)
    pauses = [shedding.refused(attempt, QueueFull("", retry_after_s=0.25), 0.0, 1.0) for _ in range(num_refused)]
    longest = min(0.25 + (num_refused - 1) / max(1, num_admitted), rule.LONGEST_PAUSE_S)
    assert pauses[0] == 0.25
    assert pauses[-1] is not None
    assert abs(pauses[-1] - longest) < 1e-9
