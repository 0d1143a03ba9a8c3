"""When processes are started again, and what their ends are called."""

from __future__ import annotations

import pytest

from batchd_server.supervisor.children import describe
from batchd_server.supervisor.listening import ListenError, listen
from batchd_server.supervisor.restarts import CRASH_LOOP, CRASH_LOOP_DELAY_S, LONGEST_DELAY_S, Restarts


def test_delays_grow_to_a_limit_until_it_is_a_crash_loop() -> None:
    restarts = Restarts()
    delays = [restarts.delay_s() for _ in range(CRASH_LOOP - 1)]
    assert delays == sorted(delays)
    assert delays[0] == 0.1
    assert delays[-1] <= LONGEST_DELAY_S
    assert not restarts.is_crash_loop
    assert restarts.delay_s() == CRASH_LOOP_DELAY_S
    assert restarts.is_crash_loop


def test_a_process_that_worked_begins_anew() -> None:
    restarts = Restarts()
    for _ in range(CRASH_LOOP):
        restarts.delay_s()
    restarts.worked()
    assert not restarts.is_crash_loop
    assert restarts.delay_s() == 0.1


def test_ends_are_told_in_words() -> None:
    assert describe(3) == "ended with exit code 3"
    assert describe(-9) == "was killed by SIGKILL"
    assert describe(-200) == "was killed by signal 200"


def test_a_host_that_cannot_be_a_name_is_said_so() -> None:
    with pytest.raises(ListenError, match="not a host name"):
        listen("a" * 70 + ".example", 0)
