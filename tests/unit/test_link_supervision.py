"""When processes are started again, and what their ends are called."""

from __future__ import annotations

import os

import pytest

from batchd_server.supervisor.children import death_of, describe
from batchd_server.supervisor.listening import ListenError, listen
from batchd_server.supervisor.pulse import INTERVAL_S, Beat, Pulse, Silence
from batchd_server.supervisor.restarts import (
    CRASH_LOOP,
    CRASH_LOOP_DELAY_S,
    LONGEST_DELAY_S,
    WORKED_S,
    Death,
    Restarts,
)


def test_a_first_death_costs_no_delay_and_further_ones_ever_more_until_it_is_a_crash_loop() -> None:
    restarts = Restarts()
    delays = [restarts.died(Death.OWN, now=float(now)) for now in range(CRASH_LOOP - 1)]
    assert delays == sorted(delays)
    assert delays[:2] == [0.0, 0.1]
    assert delays[-1] <= LONGEST_DELAY_S
    assert not restarts.is_crash_loop
    assert restarts.died(Death.OWN, now=10.0) == CRASH_LOOP_DELAY_S
    assert restarts.is_crash_loop


def lives(
    restarts: Restarts, death: Death, *, start_s: float, ready_s: float, answers: bool, times: int
) -> list[float]:
    """Let a process die again and again and return the delays."""
    now = 0.0
    delays = []
    for _ in range(times):
        now += start_s
        restarts.ready(now)
        if answers:
            restarts.answered()
        now += ready_s
        delays.append(restarts.died(death, now))
    return delays


@pytest.mark.parametrize(
    ("death", "ready_s", "answers", "loops"),
    [
        (Death.OWN, 1.0, True, True),  # answers, and dies of itself a second after every start
        (Death.OWN, WORKED_S, False, False),
        (Death.AT_WORK, 0.3, True, False),  # one bad request after the other, and good ones between them
        (Death.AT_WORK, 0.3, False, True),  # dies of the first batch every time
        (Death.KILLED, 3.0, False, False),  # somebody kills it every few seconds
        (Death.KILLED, 0.3, True, False),
        (Death.KILLED, 0.3, False, True),  # the memory runs full before it can answer anything
        (Death.HUNG, 12.0, False, True),  # hangs at the first batch
        (Death.HUNG, 12.0, True, False),
    ],
)
def test_what_counts_as_having_worked(death: Death, ready_s: float, answers: bool, loops: bool) -> None:
    delays = lives(Restarts(), death, start_s=1.0, ready_s=ready_s, answers=answers, times=20)
    if loops:
        assert delays[-1] == CRASH_LOOP_DELAY_S
    else:
        assert set(delays) == {0.0}


def test_one_life_that_lasted_ends_a_crash_loop() -> None:
    restarts = Restarts()
    lives(restarts, Death.OWN, start_s=1.0, ready_s=0.5, answers=False, times=CRASH_LOOP)
    assert restarts.is_crash_loop
    assert lives(restarts, Death.OWN, start_s=1.0, ready_s=60.0, answers=True, times=1) == [0.0]
    assert not restarts.is_crash_loop


@pytest.mark.parametrize(
    ("code", "death"),
    [(-9, Death.KILLED), (-15, Death.KILLED), (-11, Death.OWN), (1, Death.OWN), (75, Death.OWN), (76, Death.HUNG)],
)
def test_exit_codes_tell_who_is_to_blame(code: int, death: Death) -> None:
    assert death_of(code) is death


def test_silence_counts_only_while_the_listener_runs() -> None:
    silence = Silence(now=0.0)
    assert silence.look(0.25) == 0.25
    assert silence.look(3600.25) == 0.25 + Silence.LONGEST_STEP_S, "the machine was frozen, not the process"
    silence.heard(3600.5)
    assert silence.look(3600.75) == 0.25


def test_a_pulse_beats_when_due_or_when_there_is_news_and_never_waits() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    pulse = Pulse(writing)
    pulse.beat(Beat.ALIVE, 0.0)
    pulse.beat(Beat.ALIVE, INTERVAL_S / 2)
    pulse.beat(Beat.READY, INTERVAL_S / 2)
    assert os.read(reading, 10) == bytes([Beat.ALIVE, Beat.ALIVE | Beat.READY])
    for turn in range(70_000):  # more than a pipe holds
        pulse.beat(Beat.ALIVE, float(turn))
    assert len(os.read(reading, 2**20)) < 70_000
    os.close(reading)
    pulse.beat(Beat.ALIVE, 1e6)
    os.close(writing)
    pulse.beat(Beat.ALIVE, 2e6)  # it has noticed, and does not try again


def test_ends_are_told_in_words() -> None:
    assert describe(3) == "ended with exit code 3"
    assert describe(75) == "lost its device (exit code 75)"
    assert "hung" in describe(76)
    assert describe(-9) == "was killed by SIGKILL"
    assert describe(-200) == "was killed by signal 200"


def test_a_host_that_cannot_be_a_name_is_said_so() -> None:
    with pytest.raises(ListenError, match="not a host name"):
        listen("a" * 70 + ".example", 0, loopback_only=True)
