"""Settings become policies: units, layers and defaults."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import ValidationError

from batchd.baselines import Fleet
from batchd.budget import BudgetPolicy
from batchd.controller import Controller
from batchd.ladder import Boundaries, Learned, Multiples
from batchd.policy import ModelPolicy, PadTo, Window
from batchd_server.config.policies import budget_policy, model_policy, scheduler_for
from batchd_server.config.settings import BatchingSettings, DeviceSettings, LadderSettings

NOTHING = BatchingSettings()


def test_nothing_said_is_the_policy_of_the_library() -> None:
    assert model_policy(NOTHING, NOTHING) == ModelPolicy()


def test_every_setting_arrives_in_seconds() -> None:
    said = BatchingSettings(
        slo_ms=250,
        max_batch_size=3,
        max_batch_elements=4,
        max_item_elements=5,
        max_queue_size=6,
        window="fixed",
        max_wait_ms=0.5,
        priority_levels=7,
        default_priority=6,
        ladder=LadderSettings(edges=(8, 16)),
        pad_to="rung",
        layout="padded",
    )
    assert set(said.model_fields_set) == set(BatchingSettings.model_fields), "a setting this test does not know"
    assert model_policy(said, NOTHING) == ModelPolicy(
        slo_s=0.25,
        max_batch_size=3,
        max_batch_elements=4,
        max_item_elements=5,
        max_queue_size=6,
        window=Window.FIXED,
        max_wait_s=0.0005,
        priority_levels=7,
        default_priority=6,
        ladder=Boundaries((8, 16)),
        pad_to=PadTo.RUNG,
    )


class Suggesting:
    default_batching: ClassVar = {"slo_ms": 1, "max_batch_size": 1, "ladder": {"step": 32}}


def test_the_model_beats_the_defaults_beat_the_class() -> None:
    policy = model_policy(BatchingSettings(slo_ms=3000), BatchingSettings(slo_ms=2000, max_batch_size=2), Suggesting)
    assert (policy.slo_s, policy.max_batch_size, policy.ladder) == (3.0, 2, Multiples(32))


def test_a_class_that_suggests_what_is_no_setting_is_refused() -> None:
    class Wrong:
        default_batching: ClassVar = {"slo": 1}

    with pytest.raises(ValueError, match="slo"):
        model_policy(NOTHING, NOTHING, Wrong)


@pytest.mark.parametrize("levels", [1, 2, 3, 10])
def test_any_number_of_priority_levels_has_a_default_among_them(levels: int) -> None:
    assert 1 <= model_policy(BatchingSettings(priority_levels=levels), NOTHING).default_priority <= levels


@pytest.mark.parametrize(
    ("said", "ladder"),
    [
        ("learned", Learned()),
        ({"learned": "auto"}, Learned()),
        ({"learned": 8}, Learned(8)),
        ({"learned": "8", "step": 16}, Learned(8, 16)),
    ],
)
def test_a_learned_ladder_is_asked_for_by_name_or_number(said: object, ladder: Learned) -> None:
    assert model_policy(BatchingSettings.model_validate({"ladder": said}), NOTHING).ladder == ladder


@pytest.mark.parametrize(
    "said", ["fixed", {"learned": 0}, {"learned": True}, {"learned": "x"}, {"learned": 8, "parts": 2}]
)
def test_a_ladder_that_is_none_is_one_problem(said: object) -> None:
    with pytest.raises(ValidationError) as caught:
        BatchingSettings.model_validate({"ladder": said})
    assert caught.value.error_count() == 1


def test_the_device_is_ruled_by_the_controller_or_by_a_classic_rule() -> None:
    assert isinstance(scheduler_for(DeviceSettings()), Controller)
    assert isinstance(scheduler_for(DeviceSettings(policy="window:5:32")), Fleet)
    with pytest.raises(ValidationError, match="must be one of adaptive, window:MS:SIZE"):
        DeviceSettings(policy="window:5:0")


def test_the_memory_settings_become_the_budget() -> None:
    device = DeviceSettings(memory_fraction=0.5, memory_reserve_bytes=7)
    assert budget_policy(device) == BudgetPolicy(limit_fraction=0.5, safety_bytes=7)
