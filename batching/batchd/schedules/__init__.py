"""Batch-size schedules: how large the global batch is, from statistics alone.

`make_schedule` gives a schedule, which proposes; `batchd.governor.Governor` decides; `batchd.lr_rules` adapts the
learning rate; `batchd.gradient_noise` measures what many of them need.
"""

from batchd.schedules.catalogue import SCHEDULES, make_schedule, schedule_schema
from batchd.schedules.schedule import BoundedSchedule, Bounds, Need, Proposal, Schedule, Task, Unit
from batchd.schedules.step_stats import CandidateLoss, StepStats

__all__ = [
    "SCHEDULES",
    "BoundedSchedule",
    "Bounds",
    "CandidateLoss",
    "Need",
    "Proposal",
    "Schedule",
    "StepStats",
    "Task",
    "Unit",
    "make_schedule",
    "schedule_schema",
]
