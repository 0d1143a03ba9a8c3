"""Settings become policies: units, layers and defaults."""

from __future__ import annotations

from typing import ClassVar

import pytest

from batchd.budget import BudgetPolicy
from batchd.ladder import Boundaries, Multiples
from batchd.policy import ModelPolicy, PadTo, Window
from batchd_server.config.policies import budget_policy, model_policy
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


def test_the_memory_settings_become_the_budget() -> None:
    device = DeviceSettings(memory_fraction=0.5, memory_reserve_bytes=7)
    assert budget_policy(device) == BudgetPolicy(limit_fraction=0.5, safety_bytes=7)
