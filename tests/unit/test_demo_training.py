"""The demonstration's training: weights go into service at every mark that validation passes, and at no other time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from batchd_client import JobEvent
from batchd_client.loadtest import Exchange, Payload, PlannedRequest
from batchd_client.loadtest.report import report_of
from batchd_client.loadtest.runner import open_loop
from batchd_server.cli.demo_learning import Learning, Tally
from batchd_server.cli.demo_timeline import Timeline
from batchd_server.cli.demo_training import EVERY_STEPS, MARKS, Pupil

accuracies = st.lists(st.floats(0.0, 1.0), max_size=12)


class Daemon:
    """Stands for the client: a job that validates as told, and then either fails or says nothing more."""

    def __init__(self, validated: list[float], *, fails: bool) -> None:
        self.validated, self.fails = validated, fails
        self.ended = False
        self.promoted: list[int] = []
        self.cancelled = False

    @property
    def training(self) -> Daemon:
        return self

    async def create(self, _model: str, _dataset: str, **_settings: Any) -> SimpleNamespace:
        return SimpleNamespace(id="job-1")

    async def job(self, _job: str) -> SimpleNamespace:
        progress = SimpleNamespace(step=EVERY_STEPS * len(self.validated))
        status, reason = ("failed", "the loss is nan") if self.ended else ("running", None)
        return SimpleNamespace(final=self.ended, status=status, reason=reason, progress=progress)

    async def events(self, _job: str) -> AsyncIterator[JobEvent]:
        for number, accuracy in enumerate(self.validated, start=1):
            step = EVERY_STEPS * number
            yield event("validation", {"step": step, "loss": 1.0, "accuracy": accuracy})
            yield event("checkpoint", {"step": step})
        if not self.fails:
            await asyncio.get_running_loop().create_future()
        self.ended = True
        yield event("failed", {})

    async def promote(self, _job: str, step: int) -> dict[str, Any]:
        self.promoted.append(step)
        return {"step": step}

    async def cancel(self, _job: str) -> None:
        self.cancelled = True

    async def status(self) -> dict[str, Any]:
        tenants = [{"name": "job-1", "device_s": 2.0}, {"name": "job-1/forward", "device_s": 1.0}]
        return {"leases": {"tenants": [*tenants, {"name": "other", "device_s": 9.0}], "denied": "slack"}}


def event(kind: str, data: dict[str, Any]) -> JobEvent:
    return JobEvent(id=1, at=None, kind=kind, data=data)


def learned(daemon: Daemon, limit_s: float = 5.0) -> tuple[str | None, Pupil, Timeline]:
    async def run() -> tuple[str | None, Pupil, Timeline]:
        timeline = Timeline(Console(file=io.StringIO()), daemon, {})  # type: ignore[arg-type]
        pupil = Pupil(daemon, timeline)  # type: ignore[arg-type]
        return await pupil.learn(limit_s), pupil, timeline

    return asyncio.run(run())


@given(accuracies)
def test_every_mark_is_passed_once_with_the_first_weights_that_are_good_enough(validated: list[float]) -> None:
    daemon = Daemon(validated, fails=True)
    problem, _, timeline = learned(daemon)
    firsts = {next((at for at, value in enumerate(validated) if value >= mark), None) for mark in MARKS}
    expected = sorted(EVERY_STEPS * (at + 1) for at in firsts if at is not None)
    assert daemon.promoted == expected == [promotion.step for promotion in timeline.promotions]
    assert all(validated[p.step // EVERY_STEPS - 1] == p.validation for p in timeline.promotions)
    reached = max(validated, default=0.0) >= MARKS[-1]
    assert (problem is None) == reached
    assert daemon.cancelled == reached, "what has ended needs no end"


def test_a_job_that_fails_is_told_with_its_reason() -> None:
    problem, pupil, _ = learned(Daemon([0.6], fails=True))
    assert problem is not None
    assert "the loss is nan" in problem
    assert "60.0%" in problem
    assert pupil.share is None


def test_a_job_that_takes_too_long_is_cancelled_and_told() -> None:
    daemon = Daemon([0.3, 0.85], fails=False)
    problem, pupil, _ = learned(daemon, limit_s=0.05)
    assert problem is not None
    assert "0.05 s were not enough" in problem
    assert daemon.cancelled
    assert daemon.promoted == [2 * EVERY_STEPS]
    assert pupil.share == pytest.approx(3.0 / pupil.seconds), "both of the job's tenants, and no other"


def test_answers_are_compared_digit_by_digit() -> None:
    payload = Payload(path="/", body=b"", size=24)
    body = b'{"model_name":"m","outputs":[{"name":"digits","datatype":"INT64","shape":[1,3],"data":[3,1,5]}]}'

    async def run() -> Tally:
        timeline = Timeline(Console(file=io.StringIO()), Daemon([], fails=True), {payload: np.array([3, 1, 4])})  # type: ignore[arg-type]
        timeline.read(payload, {}, body)
        timeline.read(payload, {}, body)
        return timeline.tally

    tally = asyncio.run(run())
    assert tally == Tally(6, 4)
    assert (tally - Tally(3, 2)).accuracy == pytest.approx(2 / 3)
    assert Tally().accuracy is None


def test_the_demonstration_succeeds_only_if_all_was_answered_and_the_answers_became_good() -> None:
    def learning(*, outcome: str = "200", problem: str | None = None, after: float | None = 0.96) -> Learning:
        exchange = Exchange(sent=0.0, done=0.1, outcome=outcome, ok=outcome == "200", answered=True)

        async def send(_payload: Payload) -> Exchange:
            return exchange

        payload = Payload(path="/", body=b"", size=1)
        recording = asyncio.run(open_loop(send, [PlannedRequest(at=0.0, payload=payload)], span_s=1.0))
        report = report_of(recording, mode="open", slo_s=0.25)
        return Learning(
            traffic=report, timeline=[], promotions=[], before=0.1, after=after, seconds=1.0, share=0.5, problem=problem
        )

    assert learning().shortfall(0.9) is None
    for given_learning, told in (
        (learning(problem="the job failed"), "the job failed"),
        (learning(outcome="503"), "1 of 1 requests failed: 503"),
        (learning(after=0.89), "only 89.0%"),
        (learning(after=None), "only 0.0%"),
    ):
        assert told in (given_learning.shortfall(0.9) or "")
