"""Whether a job can work at all, told at submission: every refusal names the field of the job's JSON.

What only the data or the device can tell (a dataset that the model cannot read, memory) is told by the job itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.util import find_spec

from batchd.governor import Governor, GovernorSettings
from batchd.lr_rules import LR_RULES, make_lr_rule
from batchd.schedules import SCHEDULES, BoundedSchedule, Bounds, Task, make_schedule
from batchd_server.errors import Unprocessable
from batchd_server.training.job_spec import BatchingSpec, JobSpec, NamedSpec, OptimizerSpec

OPTIMIZER_PARAMETERS: Mapping[str, frozenset[str]] = {
    "sgd": frozenset({"momentum", "weight_decay"}),
    "adam": frozenset({"betas", "eps", "weight_decay"}),
    "adamw": frozenset({"betas", "eps", "weight_decay"}),
    "lars": frozenset({"momentum", "weight_decay"}),
    "lamb": frozenset({"betas", "eps", "weight_decay"}),
}
"""What each optimizer knows, beside its learning rate."""
_FROM_THE_EXTRA = frozenset({"lars", "lamb"})
_GOVERNOR_SETTINGS = tuple(f.name for f in fields(GovernorSettings) if f.init and f.name != "bounds")


def check_job(spec: JobSpec, task: Task, *, examples: int | None = None) -> None:
    """Check everything beside the model and the dataset, which must have been found.

    `examples` is how many the dataset has, where that is known.

    Raises:
        Unprocessable: something cannot work.
    """
    if task.train_size is None and examples is not None and examples >= 1:
        task = replace(task, train_size=examples)
    _check_optimizer(spec.optimizer)
    schedule = _schedule(spec.batching, task)
    _check_governor(spec.batching, schedule)
    _check_lr_rule(spec.batching.lr_rule, spec.optimizer)


def _schedule(batching: BatchingSpec, task: Task) -> BoundedSchedule:
    if task.train_size is not None and batching.max > task.train_size:
        raise _refusal("batching.max", f"must be at most the {task.train_size} examples, got {batching.max}")
    named = batching.schedule
    try:
        return make_schedule(named.name, named.parameters, Bounds(batching.min, batching.max), task)
    except ValueError as error:
        raise _refusal(_place("batching.schedule", named, known=named.name in SCHEDULES), str(error)) from error


def _check_governor(batching: BatchingSpec, schedule: BoundedSchedule) -> None:
    unknown = sorted(set(batching.governor) - set(_GOVERNOR_SETTINGS))
    if unknown:
        listed = ", ".join(_GOVERNOR_SETTINGS)
        raise _refusal(f"batching.governor.{unknown[0]}", f"there is no such setting; there are {listed}")
    try:
        Governor.of(schedule, Bounds(batching.min, batching.max), batching.initial, **batching.governor)
    except ValueError as error:
        raise _refusal("batching.governor", str(error)) from error


def _check_lr_rule(rule: NamedSpec | str, optimizer: OptimizerSpec) -> None:
    named = NamedSpec(name=rule) if isinstance(rule, str) else rule
    try:
        make_lr_rule(named.name, named.parameters)
    except ValueError as error:
        raise _refusal(_place("batching.lr_rule", named, known=named.name in LR_RULES), str(error)) from error
    if named.name == "adam_sde" and "betas" not in OPTIMIZER_PARAMETERS[optimizer.name]:
        raise _refusal("batching.lr_rule.name", f"adam_sde is for Adam and its kin, not for {optimizer.name}")


def _check_optimizer(optimizer: OptimizerSpec) -> None:
    known = OPTIMIZER_PARAMETERS[optimizer.name]
    unknown = sorted(optimizer.model_fields_set - known - {"name", "lr"})
    if unknown:
        listed = ", ".join(["lr", *sorted(known)])
        raise _refusal(f"optimizer.{unknown[0]}", f"{optimizer.name} has no such parameter; its parameters: {listed}")
    if not all(0 <= beta < 1 for beta in optimizer.betas):
        raise _refusal("optimizer.betas", f"must be in [0, 1), got {list(optimizer.betas)}")
    if optimizer.name in _FROM_THE_EXTRA and find_spec("pytorch_optimizer") is None:
        raise _refusal("optimizer.name", f"{optimizer.name} needs batchd's extra [train], which is not installed")


def _place(table: str, named: NamedSpec, *, known: bool) -> str:
    """The field that a refusal of a name, or of what stands beside it, is about."""
    return table if known and named.parameters else f"{table}.name"


def _refusal(field: str, message: str) -> Unprocessable:
    return Unprocessable(f"{field}: {message}", field=field)
