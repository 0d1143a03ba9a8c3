"""When a call is tried again: laws of the policy and of the exchange, without a network."""

from __future__ import annotations

import random
from typing import Any

import pytest

from batchd_client import ConnectionFailed, DeadlineExceeded, Overloaded, ProtocolError, RetryPolicy, ServerFailed
from batchd_client.exchange import GRACE_S, Call, CallSettings, Done, Exchange, Failure, FailureKind, Pause
from batchd_client.wire import Answer, EncodedRequest

LOST = Failure(FailureKind.LOST, "broken")


def policy(**changes: Any) -> RetryPolicy:
    return RetryPolicy(**{"rng": random.Random(1), **changes})


def pause_s(chosen: RetryPolicy, attempts: int, *, asked_s: float | None = None) -> float:
    pause = chosen.pause_s(attempts, asked_s=asked_s, left_s=None)
    assert pause is not None
    return pause


def call(**changes: Any) -> Call[bytes]:
    def render(left_s: float | None) -> EncodedRequest:
        return EncodedRequest(method="GET", path="/", body=repr(left_s).encode())

    return Call(**{"render": render, "parse": lambda answer: answer.body, "request_id": "r", **changes})


def exchange(call: Call[bytes], **changes: Any) -> Exchange[bytes]:
    settings = CallSettings(
        base_url="http://x", headers={"authorization": "k"}, retry=policy(**changes), read_timeout_s=60.0
    )
    return Exchange(call, settings, now=100.0)


def answer(status: int, body: bytes = b"{}", **headers: str) -> Answer:
    return Answer(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=body, received=0.0)


@pytest.mark.parametrize("attempts", range(1, 9))
def test_back_off_is_drawn_below_a_doubling_ceiling(attempts: int) -> None:
    chosen = policy(max_attempts=20, backoff_s=0.1, max_backoff_s=2.0)
    pauses = [pause_s(chosen, attempts) for _ in range(200)]
    ceiling = min(2.0, 0.1 * 2 ** (attempts - 1))
    assert all(0 <= pause <= ceiling for pause in pauses)
    assert max(pauses) > 0.8 * ceiling


def test_back_off_stays_bounded_after_any_number_of_attempts() -> None:
    pause = pause_s(policy(max_attempts=10_000), 5000)
    assert 0 <= pause <= 5.0


def test_the_same_seed_gives_the_same_pauses() -> None:
    def draw() -> list[float]:
        chosen = policy(max_attempts=9, rng=random.Random(7))
        return [pause_s(chosen, n) for n in range(1, 9)]

    assert draw() == draw()


def test_the_servers_pause_is_kept_and_at_most_slightly_exceeded() -> None:
    pauses = [pause_s(policy(rng=random.Random(seed)), 1, asked_s=2.0) for seed in range(50)]
    assert all(2.0 <= pause <= 2.1 for pause in pauses)


@pytest.mark.parametrize(
    ("attempts", "asked_s", "left_s"), [(3, None, None), (1, 2.0, 2.0), (1, 61.0, None), (1, None, 0.0)]
)
def test_it_gives_up_when_trying_again_has_no_point(attempts: int, asked_s: float | None, left_s: float | None) -> None:
    assert policy().pause_s(attempts, asked_s=asked_s, left_s=left_s) is None


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"backoff_s": -1}, {"max_retry_after_s": -0.1}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_attempts|negative"):
        RetryPolicy(**wrong)


def test_every_attempt_carries_the_same_id_and_the_time_that_is_left() -> None:
    tried = exchange(call(timeout_s=10.0))
    first = tried.send(100.0)
    assert isinstance(tried.failed(LOST, 103.0), Pause)
    second = tried.send(104.0)
    assert (first.request.body, second.request.body) == (b"10.0", b"6.0")
    assert (first.wait_s, second.wait_s) == (10.0 + GRACE_S, 6.0 + GRACE_S)
    assert first.request.headers == second.request.headers == {"authorization": "k", "x-request-id": "r"}


def test_without_a_deadline_the_read_timeout_bounds_the_wait() -> None:
    sent = exchange(call()).send(100.0)
    assert (sent.request.body, sent.wait_s) == (b"None", 60.0)


@pytest.mark.parametrize("status", [429, 503])
def test_overload_is_tried_again_until_the_attempts_are_used_up(status: int) -> None:
    tried = exchange(call(), max_attempts=3)
    for _ in range(2):
        tried.send(100.0)
        assert isinstance(tried.answered(answer(status), 100.0), Pause)
    tried.send(100.0)
    with pytest.raises(Exception, match=f"status {status}"):
        tried.answered(answer(status), 100.0)


@pytest.mark.parametrize("status", [400, 404, 413, 500, 504, 507])
def test_other_errors_are_final(status: int) -> None:
    tried = exchange(call())
    tried.send(100.0)
    with pytest.raises(Exception, match=f"status {status}"):
        tried.answered(answer(status), 100.0)


def test_a_server_that_says_not_to_retry_is_obeyed() -> None:
    tried = exchange(call())
    tried.send(100.0)
    with pytest.raises(Overloaded):
        tried.answered(answer(429, x_should_retry="false"), 100.0)


def test_no_pause_reaches_the_deadline_and_the_reason_is_the_servers() -> None:
    tried = exchange(call(timeout_s=1.0))
    tried.send(100.0)
    with pytest.raises(Overloaded) as raised:
        tried.answered(answer(429, retry_after="1"), 100.2)
    assert raised.value.retry_after_s == 1


def test_a_lost_connection_is_tried_again_and_then_reported() -> None:
    tried = exchange(call(), max_attempts=2)
    tried.send(100.0)
    assert isinstance(tried.failed(LOST, 100.0), Pause)
    tried.send(100.0)
    with pytest.raises(ConnectionFailed, match=r"broken \(request r, attempts: 2\)"):
        tried.failed(LOST, 100.0)


@pytest.mark.parametrize(
    ("kind", "timeout_s", "error"),
    [
        (FailureKind.TIMED_OUT, 1.0, DeadlineExceeded),
        (FailureKind.TIMED_OUT, None, ConnectionFailed),
        (FailureKind.REFUSED, None, ConnectionFailed),
        (FailureKind.GARBLED, None, ProtocolError),
    ],
)
def test_failures_that_trying_again_does_not_cure(kind: Any, timeout_s: float | None, error: type[Exception]) -> None:
    tried = exchange(call(timeout_s=timeout_s))
    tried.send(100.0)
    with pytest.raises(error):
        tried.failed(Failure(kind, "why"), 101.0)


def test_nothing_is_sent_after_the_deadline() -> None:
    with pytest.raises(DeadlineExceeded, match=r"within 1\.0 s"):
        exchange(call(timeout_s=1.0)).send(101.0)


def test_a_probe_takes_every_failure_for_an_answer() -> None:
    tried = exchange(call(unreachable=Done(b"no")))
    tried.send(100.0)
    assert tried.failed(LOST, 100.0) == Done(b"no")


def test_an_answer_is_parsed_and_ends_the_call() -> None:
    tried = exchange(call())
    tried.send(100.0)
    assert tried.answered(answer(200, b"yes"), 100.1) == Done(b"yes")


def test_a_redirect_points_at_the_base_url() -> None:
    tried = exchange(call())
    tried.send(100.0)
    with pytest.raises(ProtocolError, match="is the base URL right"):
        tried.answered(answer(307, location="https://x/"), 100.0)


def test_a_model_failure_is_not_taken_for_overload() -> None:
    tried = exchange(call())
    tried.send(100.0)
    with pytest.raises(ServerFailed):
        tried.answered(answer(500, retry_after="1"), 100.0)
