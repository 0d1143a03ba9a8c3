"""Settings to the policies that the controller works by. Milliseconds end here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchd.budget import BudgetPolicy
from batchd.ladder import Boundaries, Ladder, Multiples, Proportional
from batchd.policy import ModelPolicy, PadTo, Window
from batchd_server.config.settings import BatchingSettings, DeviceSettings, LadderSettings


def model_policy(
    batching: BatchingSettings, defaults: BatchingSettings, model_class: type[object] | None = None
) -> ModelPolicy:
    """Return the policy of one model. Strongest first: its own table, `[defaults.batching]`, its class, batchd.

    A class may suggest values for its kind of items in an optional `default_batching` mapping, with the keys of
    `[models.NAME.batching]`.

    Raises:
        ValueError: where the settings contradict each other, or the class suggests what is no setting.
    """
    suggested: Mapping[str, Any] = getattr(model_class, "default_batching", {})
    values: dict[str, Any] = {}
    for layer in (BatchingSettings.model_validate(dict(suggested)), defaults, batching):
        values |= {name: getattr(layer, name) for name in layer.model_fields_set if getattr(layer, name) is not None}
    policy: dict[str, Any] = {name: value for name, value in values.items() if not name.endswith("_ms")}
    if "slo_ms" in values:
        policy["slo_s"] = values["slo_ms"] / 1000
    if "max_wait_ms" in values:
        policy["max_wait_s"] = values["max_wait_ms"] / 1000
    if "window" in values:
        policy["window"] = Window(values["window"])
    if "pad_to" in values:
        policy["pad_to"] = PadTo(values["pad_to"])
    if "ladder" in values:
        policy["ladder"] = _ladder(values["ladder"])
    if "priority_levels" in values and "default_priority" not in values:
        # the middle of the levels, as 2 is of 3
        policy["default_priority"] = (values["priority_levels"] + 1) // 2
    return ModelPolicy(**policy)


def budget_policy(device: DeviceSettings) -> BudgetPolicy:
    """Return what the operator allows of the device's memory."""
    return BudgetPolicy(limit_fraction=device.memory_fraction, safety_bytes=device.memory_reserve_bytes)


def _ladder(settings: LadderSettings) -> Ladder:
    if settings.edges is not None:
        return Boundaries(settings.edges)
    if settings.step is not None:
        return Multiples(settings.step)
    return Proportional() if settings.parts is None else Proportional(settings.parts)
