"""Settings to the policies that the controller works by. Milliseconds end here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchd.baselines import ADAPTIVE, Fleet, parse_rule
from batchd.budget import BudgetPolicy
from batchd.controller import Controller
from batchd.device_scheduler import DeviceScheduler
from batchd.ladder import Boundaries, Ladder, Learned, Multiples, Proportional
from batchd.leasing import TrainingPolicy
from batchd.policy import Layout, ModelPolicy, PadTo, Window
from batchd.scheduler import Scheduler
from batchd_server.config.settings import BatchingSettings, DeviceSettings, LadderSettings, TrainingSettings


def model_policy(
    batching: BatchingSettings, defaults: BatchingSettings, model_class: type[object] | None = None
) -> ModelPolicy:
    """Return the policy of one model. Strongest first: its own table, `[defaults.batching]`, its class, batchd.

    A class may suggest values for its kind of items in an optional `default_batching` mapping, with the keys of
    `[models.NAME.batching]`.

    Raises:
        ValueError: where the settings contradict each other, or the class suggests what is no setting.
    """
    values = _values(batching, defaults, model_class)
    policy: dict[str, Any] = {name: value for name, value in values.items() if not name.endswith("_ms")}
    if "slo_ms" in values:
        policy["slo_s"] = values["slo_ms"] / 1000
    if "max_wait_ms" in values:
        policy["max_wait_s"] = values["max_wait_ms"] / 1000
    if "window" in values:
        policy["window"] = Window(values["window"])
    if "layout" in values:
        policy["layout"] = layouts_to_try(batching, defaults, model_class)[0]
    if "pad_to" in values:
        policy["pad_to"] = PadTo(values["pad_to"])
    if "ladder" in values:
        policy["ladder"] = _ladder(values["ladder"])
    if "priority_levels" in values and "default_priority" not in values:
        # the middle of the levels, as 2 is of 3
        policy["default_priority"] = (values["priority_levels"] + 1) // 2
    return ModelPolicy(**policy)


def layouts_to_try(
    batching: BatchingSettings, defaults: BatchingSettings, model_class: type[object] | None = None
) -> tuple[Layout, ...]:
    """Return the layouts that a model's batches may have; of several, measuring chooses, and the first is certain.

    Raises:
        ValueError: the model takes no ragged batches, but is to.
    """
    wanted = _values(batching, defaults, model_class).get("layout", "padded")
    if wanted == "padded":
        return (Layout.PADDED,)
    if model_class is None or not hasattr(model_class, "collate_ragged"):
        if wanted == "auto":
            return (Layout.PADDED,)
        raise ValueError('layout "ragged" needs a model with collate_ragged; this one takes padded batches only')
    return (Layout.RAGGED,) if wanted == "ragged" else (Layout.PADDED, Layout.RAGGED)


def _values(batching: BatchingSettings, defaults: BatchingSettings, model_class: type[object] | None) -> dict[str, Any]:
    """The settings of one model, the strongest source of each."""
    suggested: Mapping[str, Any] = getattr(model_class, "default_batching", {})
    values: dict[str, Any] = {}
    for layer in (BatchingSettings.model_validate(dict(suggested)), defaults, batching):
        values |= {name: getattr(layer, name) for name in layer.model_fields_set if getattr(layer, name) is not None}
    return values


def budget_policy(device: DeviceSettings, training: TrainingSettings | None = None) -> BudgetPolicy:
    """Return what the operator allows of the device's memory.

    In a spatial split batches and microbatches run at the same time, so each may take half of what is free.
    """
    split = training is not None and training.split == "space"
    return BudgetPolicy(
        limit_fraction=device.memory_fraction,
        safety_bytes=device.memory_reserve_bytes,
        headroom_share=0.5 if split else 1.0,
    )


def training_controller(device: DeviceSettings, training: TrainingSettings) -> Controller:
    """Return what lends to training the cores that it has to itself."""
    return Controller(budget_policy(device, training), _training_policy(training))


def scheduler_for(device: DeviceSettings, training: TrainingSettings | None = None) -> DeviceScheduler:
    """Return what decides on the device: the controller, or a classic rule per model."""
    budget = budget_policy(device, training)
    if device.policy == ADAPTIVE:
        return Controller(budget, _training_policy(training or TrainingSettings()))

    def rule(policy: ModelPolicy) -> Scheduler:
        return parse_rule(device.policy, slo_s=policy.slo_s, max_batch_size=policy.max_batch_size)()

    return Fleet(rule, budget)


def _training_policy(training: TrainingSettings) -> TrainingPolicy:
    return TrainingPolicy(priority=training.priority, share_max=training.share_max)


def _ladder(settings: LadderSettings) -> Ladder:
    if settings.learned is not None:
        num_rungs = None if settings.learned == "auto" else settings.learned
        return Learned(num_rungs, settings.step or 1)
    if settings.edges is not None:
        return Boundaries(settings.edges)
    if settings.step is not None:
        return Multiples(settings.step)
    return Proportional() if settings.parts is None else Proportional(settings.parts)
