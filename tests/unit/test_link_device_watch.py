"""What a front believes of the device process."""

from __future__ import annotations

from typing import Literal

from batchd_server.link.device_watch import SILENCE_S, DeviceWatch
from batchd_server.link.messages import Announce, ModelState


def _announce(
    incarnation: str = "a",
    *,
    ready: bool = True,
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"] = "READY",
    slo_s: float = 0.5,
) -> Announce:
    return Announce(
        incarnation=incarnation, pid=1, ready=ready, draining=False, models=(ModelState("m", state, slo_s=slo_s),)
    )


def test_silence_is_noticed_only_after_a_while() -> None:
    watch = DeviceWatch(["m"])
    assert watch.is_silent(0.0)
    watch.hear(_announce(), now=100.0)
    assert not watch.is_silent(100.0 + SILENCE_S)
    assert watch.is_silent(100.1 + SILENCE_S)
    patient = DeviceWatch(["m"], hang_timeout_s=10.0)
    patient.hear(_announce(), now=100.0)
    assert patient.is_silent(114.0)
    assert not patient.is_given_up(114.0)
    assert patient.is_given_up(115.1)


def test_a_new_incarnation_is_new_and_a_heartbeat_is_not() -> None:
    watch = DeviceWatch(["m"])
    assert watch.is_new(_announce("a"))
    watch.hear(_announce("a"), now=0.0)
    assert not watch.is_new(_announce("a"))
    assert watch.is_new(_announce("b"))


def test_a_lost_device_takes_nothing_but_is_remembered_to_have_been_ready() -> None:
    watch = DeviceWatch(["m"])
    assert not watch.was_ready
    watch.hear(_announce(), now=0.0)
    assert watch.takes("m")
    watch.lose()
    assert not watch.takes("m")
    assert watch.was_ready
    assert watch.last is not None


def test_a_model_that_is_ready_is_served_while_others_load() -> None:
    watch = DeviceWatch(["m", "other"])
    watch.hear(_announce(ready=False), now=0.0)
    assert watch.takes("m")
    assert not watch.takes("other")


def test_a_ready_device_is_asked_even_for_models_it_will_refuse() -> None:
    watch = DeviceWatch(["m"])
    watch.hear(_announce(state="UNAVAILABLE"), now=0.0)
    assert watch.takes("m")


def test_the_announced_slo_counts_and_an_unknown_one_is_the_default() -> None:
    watch = DeviceWatch(["m", "other"])
    watch.hear(_announce(slo_s=0.25), now=0.0)
    assert (watch.slo_s("m"), watch.slo_s("other")) == (0.25, 1.0)
    watch.hear(_announce(state="UNAVAILABLE", slo_s=0.0), now=1.0)
    assert watch.slo_s("m") == 0.25


def test_only_a_model_that_loads_is_waited_for_one_that_failed_to_load_is_refused_at_once() -> None:
    watch = DeviceWatch(["m"])
    watch.hear(_announce(ready=False, state="LOADING"), now=0.0)
    assert not watch.takes("m")
    watch.hear(_announce(ready=False, state="UNAVAILABLE"), now=1.0)
    assert watch.takes("m")
