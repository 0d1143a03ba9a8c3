"""What clients are told while there is no device process."""

from __future__ import annotations

from pathlib import Path

from batchd_server.front.standing_watch import FRESH_S, StandingWatch, not_ready
from batchd_server.supervisor.standing import DeviceStanding

LOOP = DeviceStanding(
    state="crash_loop",
    deaths=9,
    deaths_in_a_row=7,
    last_exit=-11,
    last_death="was killed by SIGSEGV",
    next_start_s=1020.5,
)


def test_a_crash_loop_is_told_with_its_cause_and_the_time_to_come_back() -> None:
    refusal = not_ready(LOOP, 1000.0)
    assert refusal.message == (
        "the device process is in a crash loop: it ended 7 times in a row, the last one was killed by SIGSEGV; "
        "next start in 21 s"
    )
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "crash_loop", 20.5)


def test_while_it_is_being_tried_there_is_still_a_time_to_come_back() -> None:
    for now, standing in ((1030.0, LOOP), (1000.0, DeviceStanding(state="crash_loop"))):
        refusal = not_ready(standing, now)
        assert "is being started again" in refusal.message
        assert refusal.retry_after_s is not None
        assert refusal.retry_after_s > 0


def test_only_a_crash_loop_refuses_requests(tmp_path: Path) -> None:
    now = 0.0
    watch = StandingWatch(tmp_path, lambda: now, lambda: 1000.0)
    assert watch.refusal() is None, "nobody supervises"
    for state in ("starting", "running", "restarting"):
        DeviceStanding(state=state, last_death="was killed by SIGKILL").write(tmp_path)
        now += 2 * FRESH_S
        assert watch.refusal() is None
    LOOP.write(tmp_path)
    assert watch.refusal() is None, "the file is not read for every request"
    now += 2 * FRESH_S
    refusal = watch.refusal()
    assert refusal is not None
    assert refusal.code == "crash_loop"


def test_who_asks_is_never_told_of_the_process_before_the_last(tmp_path: Path) -> None:
    watch = StandingWatch(tmp_path, lambda: 5.0, lambda: 1000.0)
    for deaths in range(3):
        DeviceStanding(state="running", deaths=deaths).write(tmp_path)
        assert watch.refusal() is None
        told = watch.look()
        assert told is not None
        assert told.deaths == deaths, "though no time has passed"
