"""All schedules by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchd.parameters import build, json_schema
from batchd.schedules.curriculum import Curriculum
from batchd.schedules.entropy import Entropy
from batchd.schedules.gradient_noise_rules import Cabs, Goodput, GradientDiversity, NoiseScale, NormTest
from batchd.schedules.loss_trend import LossDifference, LossMovingAverage, LossVariance
from batchd.schedules.memory_pressure import MemoryPressure
from batchd.schedules.online_selection import OnlineSelection
from batchd.schedules.open_loop import Cyclical, Exponential, Fixed, Linear, WarmUp
from batchd.schedules.schedule import BoundedSchedule, Bounds, Task

_ALL: tuple[type[BoundedSchedule], ...] = (
    Fixed,
    Linear,
    Exponential,
    Cyclical,
    WarmUp,
    LossDifference,
    LossMovingAverage,
    LossVariance,
    Entropy,
    NoiseScale,
    Goodput,
    NormTest,
    GradientDiversity,
    Cabs,
    OnlineSelection,
    Curriculum,
    MemoryPressure,
)
SCHEDULES: Mapping[str, type[BoundedSchedule]] = {schedule.name: schedule for schedule in _ALL}


def make_schedule(
    name: str, parameters: Mapping[str, Any], bounds: Bounds, task: Task | None = None
) -> BoundedSchedule:
    """Make the schedule `name`.

    Raises:
        ValueError: no such schedule (lists all), no such parameter (lists the schedule's), a value out of its range
            (says the range), a size larger than the training set, or a schedule that cannot work for the task.
    """
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called {name!r}; there are {', '.join(SCHEDULES)}")
    task = task or Task()
    if task.train_size is not None and bounds.max_size > task.train_size:
        raise ValueError(f"max_size must be at most the {task.train_size} training examples, got {bounds.max_size}")
    return build(SCHEDULES[name], name, parameters, bounds=bounds, task=task)


def schedule_schema(name: str) -> dict[str, Any]:
    """Describe the parameters of the schedule `name` as a JSON schema.

    Raises:
        ValueError: no such schedule.
    """
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called {name!r}; there are {', '.join(SCHEDULES)}")
    return json_schema(SCHEDULES[name], without=frozenset({"bounds", "task"}))
