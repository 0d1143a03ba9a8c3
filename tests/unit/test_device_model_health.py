"""A model that fails its own example is found out; bad inputs alone prove nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchd_server.device.model_health import LONGEST_PAUSE_S, SUSPECT_FAILURES, ModelHealth


def fail(health: ModelHealth, times: int = SUSPECT_FAILURES) -> None:
    for _ in range(times):
        health.batch_over("m", succeeded=False)


def test_failures_in_a_row_cause_one_probe() -> None:
    health = ModelHealth()
    fail(health, SUSPECT_FAILURES - 1)
    assert health.probes(0.0) == ()
    fail(health, 1)
    assert health.probes(0.0) == ("m",)
    assert health.probes(100.0) == (), "one at a time"
    assert not health.is_failing("m"), "it is not condemned unheard"


@given(st.lists(st.integers(0, SUSPECT_FAILURES - 1)))
def test_a_success_now_and_then_is_health(runs: list[int]) -> None:
    health = ModelHealth()
    for failures in runs:
        fail(health, failures)
        health.batch_over("m", succeeded=True)
        assert health.probes(0.0) == ()


@given(st.lists(st.floats(0.1, 10.0), max_size=50))
def test_bad_inputs_of_a_client_never_take_a_model_out_of_service_and_cost_little(gaps: list[float]) -> None:
    health = ModelHealth()
    now, probes = 0.0, 0
    for gap in gaps:
        now += gap
        fail(health)
        for name in health.probes(now):
            probes += 1
            health.probed(name, now, succeeded=True)
        assert not health.is_failing("m")
    assert probes <= 6 + now / LONGEST_PAUSE_S


@given(st.integers(1, 40))
def test_a_model_that_fails_its_example_is_probed_until_it_recovers(failures: int) -> None:
    health = ModelHealth()
    fail(health)
    now, probes = 0.0, 0
    while not health.is_failing("m") or probes <= failures:
        now += 0.5
        for name in health.probes(now):
            probes += 1
            health.probed(name, now, succeeded=probes > failures)
            assert health.is_failing("m") == (probes <= failures)
        if probes > failures:
            break
        assert now < 100.0 + failures * (LONGEST_PAUSE_S + 1)
    assert health.probes(now + 1000.0) == (), "healthy again, with a clean record"


def test_what_is_forgotten_is_not_probed_and_a_late_probe_is_ignored() -> None:
    health = ModelHealth()
    fail(health)
    assert health.probes(0.0) == ("m",)
    health.forget("m")
    health.probed("m", 1.0, succeeded=False)
    assert not health.is_failing("m")
    assert health.probes(100.0) == ()


def test_the_first_answer_is_remembered() -> None:
    health = ModelHealth()
    fail(health)
    assert not health.answered
    health.batch_over("other", succeeded=True)
    fail(health)
    assert health.answered
