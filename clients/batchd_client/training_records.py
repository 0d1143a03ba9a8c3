"""What the daemon says about training jobs and datasets. Times are seconds since the epoch, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchd_client.errors import ProtocolError
from batchd_client.json_object import JsonObject, as_list, as_object, member, optional_member, parse_object

FINAL_STATUSES = frozenset({"cancelled", "failed", "succeeded"})
"""Statuses after which nothing more happens to a job; its last event is named so, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFigures:
    """How far a job is, or what one step of it came to. None where it is not known, or no finite number."""

    step: int
    """Optimizer steps done."""
    examples: int
    """Examples learned from, counted each time."""
    epoch: float
    """Passes over the training part, with fractions."""
    loss: float | None
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    batch_size: int | None
    """Global batch size: what the step averaged over."""
    learning_rate: float | None
    noise_scale: float | None
    microbatch: int | None
    """Items that the device ran at once."""
    device_share: float | None
    """Share of the device's time that the job lately had."""
    seconds: float | None
    """Device time of the step; None for a job as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A training job as it stands."""

    id: str
    status: str
    """queued, running, pausing, paused, cancelling, cancelled, failed or succeeded."""
    reason: str | None
    """Why it failed, or waits."""
    model: str
    dataset: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    progress: TrainingFigures
    document: JsonObject
    """All that the daemon said: the job as it was submitted, with what was left out filled in, and the above."""

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in FINAL_STATUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJobPage:
    """Some jobs, newest first, and whether there are older ones."""

    jobs: tuple[TrainingJob, ...]
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One line of a job's history. Ids increase."""

    id: int
    at: float | None
    kind: str
    data: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeCommit:
    """One decision about the global batch size, from `step` on."""

    step: int
    schedule: str
    raw: float | None
    """What the schedule proposed; None where that was no finite number."""
    smoothed: float
    size: int
    reason: str
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCheckpoint:
    """A saved state of a job."""

    step: int
    created_at: float
    bytes: int
    validation_accuracy: float | None
    best: bool
    """Whether it is the best by validation so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Examples to learn from; `format` is npz, safetensors, parquet, jsonl, images or builtin."""

    id: str
    name: str
    format: str
    bytes: int
    examples: int
    created_at: float
    sha256: str | None


def parse_job(body: bytes) -> TrainingJob:
    """Read one job.

    Raises:
        ProtocolError: it cannot be understood.
    """
    return _job(parse_object(body))


def parse_job_page(body: bytes) -> TrainingJobPage:
    """Read a list of jobs.

    Raises:
        ProtocolError: it cannot be understood.
    """
    page = parse_object(body)
    return TrainingJobPage(
        jobs=tuple(_job(entry) for entry in _entries(page, "a job")),
        has_more=member(page, "has_more", bool, "the list of jobs"),
    )


def parse_event(event_id: str, kind: str, data: str) -> JobEvent:
    """Read a server-sent event.

    Raises:
        ProtocolError: it cannot be understood.
    """
    if not (event_id.isascii() and event_id.isdigit()):
        raise ProtocolError(f"an event's id is {event_id!r}, which is no number")
    event = parse_object(data.encode())
    return JobEvent(
        id=int(event_id),
        at=_optional_number(event, "at", "an event"),
        kind=kind,
        data=as_object(event.get("data", {}), "an event's data"),
    )


def parse_metrics(body: bytes) -> tuple[TrainingFigures, ...]:
    """Read steps' figures.

    Raises:
        ProtocolError: they cannot be understood.
    """
    return tuple(_figures(entry, "a step") for entry in _entries(parse_object(body), "a step"))


def parse_journal(body: bytes) -> tuple[BatchSizeCommit, ...]:
    """Read the decisions about the batch size.

    Raises:
        ProtocolError: they cannot be understood.
    """
    return tuple(
        BatchSizeCommit(
            step=member(entry, "step", int, "a commit"),
            schedule=member(entry, "schedule", str, "a commit"),
            raw=_optional_number(entry, "raw", "a commit"),
            smoothed=_number(entry, "smoothed", "a commit"),
            size=member(entry, "size", int, "a commit"),
            reason=member(entry, "reason", str, "a commit"),
            changed=member(entry, "changed", bool, "a commit"),
        )
        for entry in _entries(parse_object(body), "a commit")
    )


def parse_checkpoints(body: bytes) -> tuple[JobCheckpoint, ...]:
    """Read a job's saved states.

    Raises:
        ProtocolError: they cannot be understood.
    """
    return tuple(
        JobCheckpoint(
            step=member(entry, "step", int, "a checkpoint"),
            created_at=_number(entry, "created_at", "a checkpoint"),
            bytes=member(entry, "bytes", int, "a checkpoint"),
            validation_accuracy=_optional_number(entry, "validation_accuracy", "a checkpoint"),
            best=member(entry, "best", bool, "a checkpoint"),
        )
        for entry in _entries(parse_object(body), "a checkpoint")
    )


def parse_dataset(body: bytes) -> Dataset:
    """Read one dataset.

    Raises:
        ProtocolError: it cannot be understood.
    """
    return _dataset(parse_object(body))


def parse_datasets(body: bytes) -> tuple[Dataset, ...]:
    """Read the list of datasets.

    Raises:
        ProtocolError: it cannot be understood.
    """
    return tuple(_dataset(entry) for entry in _entries(parse_object(body), "a dataset"))


def _job(job: JsonObject) -> TrainingJob:
    return TrainingJob(
        id=member(job, "id", str, "a job"),
        status=member(job, "status", str, "a job"),
        reason=optional_member(job, "reason", str, "a job"),
        model=member(job, "model", str, "a job"),
        dataset=member(job, "dataset", str, "a job"),
        created_at=_number(job, "created_at", "a job"),
        started_at=_optional_number(job, "started_at", "a job"),
        finished_at=_optional_number(job, "finished_at", "a job"),
        progress=_figures(as_object(job.get("progress"), "a job's progress"), "a job's progress"),
        document=job,
    )


def _figures(source: JsonObject, what: str) -> TrainingFigures:
    return TrainingFigures(
        step=member(source, "step", int, what),
        examples=member(source, "examples", int, what),
        epoch=_number(source, "epoch", what),
        loss=_optional_number(source, "loss", what),
        accuracy=_optional_number(source, "accuracy", what),
        validation_loss=_optional_number(source, "validation_loss", what),
        validation_accuracy=_optional_number(source, "validation_accuracy", what),
        batch_size=optional_member(source, "batch_size", int, what),
        learning_rate=_optional_number(source, "learning_rate", what),
        noise_scale=_optional_number(source, "noise_scale", what),
        microbatch=optional_member(source, "microbatch", int, what),
        device_share=_optional_number(source, "device_share", what),
        seconds=_optional_number(source, "seconds", what),
    )


def _dataset(entry: JsonObject) -> Dataset:
    return Dataset(
        id=member(entry, "id", str, "a dataset"),
        name=member(entry, "name", str, "a dataset"),
        format=member(entry, "format", str, "a dataset"),
        bytes=member(entry, "bytes", int, "a dataset"),
        examples=member(entry, "examples", int, "a dataset"),
        created_at=_number(entry, "created_at", "a dataset"),
        sha256=optional_member(entry, "sha256", str, "a dataset"),
    )


def _entries(source: JsonObject, what: str) -> list[JsonObject]:
    return [as_object(value, what) for value in as_list(source.get("data"), "'data'")]


def _number(source: JsonObject, name: str, what: str) -> float:
    value = _optional_number(source, name, what)
    if value is None:
        raise ProtocolError(f"{what} has no {name!r}")
    return value


def _optional_number(source: JsonObject, name: str, what: str) -> float | None:
    value: Any = source.get(name)
    # JSON writes 1.0 as 1 where it likes; true is no number all the same.
    if value is not None and type(value) not in {int, float}:
        raise ProtocolError(f"{what}: {name!r} is no number")
    try:
        return None if value is None else float(value)
    except OverflowError:
        raise ProtocolError(f"{what}: {name!r} is too large a number") from None
