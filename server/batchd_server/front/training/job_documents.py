"""Jobs, their journals and datasets as JSON, and the description of a job's JSON for OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from batchd.lr_rules import LR_RULES
from batchd.schedules import SCHEDULES
from batchd_server.front.service import Front
from batchd_server.training.job_spec import JobSpec, JobStatus
from batchd_server.training.records import Checkpoint, Dataset, Event, Job
from batchd_server.training.trouble import Trouble


def as_it_stands(front: Front, job: Job) -> Job:
    """Return the job with what the store cannot say: that it rests because nothing can be kept now."""
    code = front.dispatcher.state().training_trouble
    if not code or job.status.final or job.status is JobStatus.PAUSED:
        return job
    status = JobStatus.PAUSED if job.status is JobStatus.RUNNING else job.status
    return replace(job, status=status, reason=f"{Trouble(code).reason}; it goes on by itself")


def job_document(job: Job) -> dict[str, Any]:
    """Return the job as it was submitted, with what became of it."""
    return {
        **job.spec.model_dump(mode="json"),
        "id": job.id,
        "object": "training.job",
        "status": job.status.value,
        "reason": job.reason,
        "created_at": job.created,
        "started_at": job.started,
        "finished_at": job.finished,
        "progress": asdict(job.progress),
    }


def event_document(job_id: str, event: Event) -> dict[str, Any]:
    """Return one event; its id and kind stand beside it in a stream too."""
    return {"id": event.id, "job": job_id, "kind": event.kind, "at": event.at, "data": dict(event.data)}


def checkpoint_document(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint, without where it lies."""
    return {
        "step": checkpoint.step,
        "created_at": checkpoint.created,
        "bytes": checkpoint.bytes,
        "validation_accuracy": checkpoint.validation_accuracy,
        "best": checkpoint.best,
    }


def dataset_document(dataset: Dataset) -> dict[str, Any]:
    """Return a dataset, without where it lies."""
    return {
        "id": dataset.id,
        "object": "dataset",
        "name": dataset.name,
        "format": dataset.format,
        "bytes": dataset.bytes,
        "examples": dataset.examples,
        "created_at": dataset.created,
        "sha256": dataset.sha256,
    }


def job_schema() -> dict[str, Any]:
    """Describe a job's JSON as a schema without references, with the names of schedules and rules."""
    schema: dict[str, Any] = JobSpec.model_json_schema()
    inlined: dict[str, Any] = _inlined(schema, schema.pop("$defs", {}))
    batching = inlined["properties"]["batching"]["properties"]
    batching["schedule"]["properties"]["name"]["enum"] = list(SCHEDULES)
    batching["lr_rule"]["description"] = f"A name, or a table with name and parameters: {', '.join(LR_RULES)}."
    return inlined


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(entry, definitions) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if reference is None:
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    return _inlined({**definitions[reference.rpartition("/")[2]], **beside}, definitions)
