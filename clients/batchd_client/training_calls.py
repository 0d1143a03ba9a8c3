"""Every call about training that the clients can make: how its request is rendered and its answer read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar
from urllib.parse import quote, urlencode

from batchd_client.exchange import Call, fresh_request_id
from batchd_client.json_object import JsonObject, parse_object
from batchd_client.training_records import (
    BatchSizeCommit,
    Dataset,
    JobCheckpoint,
    TrainingFigures,
    TrainingJob,
    TrainingJobPage,
    parse_checkpoints,
    parse_dataset,
    parse_datasets,
    parse_job,
    parse_job_page,
    parse_journal,
    parse_metrics,
)
from batchd_client.wire import EncodedRequest, model_path

T = TypeVar("T")

UPLOAD_TIMEOUT_S = 3600.0
_JOBS = "/v1/training/jobs"
_DATASETS = "/v1/datasets"

CheckpointName: TypeAlias = int | Literal["best", "last"]


class JobSettings(TypedDict, total=False):
    """What a job may say beside its model and dataset; it must say `epochs` or `max_steps`. See docs/training.md."""

    epochs: int | None
    max_steps: int | None
    optimizer: Mapping[str, Any]
    batching: Mapping[str, Any]
    seed: int
    fresh: bool
    deterministic: bool
    validation: Mapping[str, Any]
    checkpoint: Mapping[str, Any]
    weight: float
    metadata: Mapping[str, str | int | float | bool | None]


def create_job(spec: Mapping[str, Any], idempotency_key: str | None, timeout_s: float | None) -> Call[TrainingJob]:
    """Submit a job. The key is the same in every attempt, so that one whose answer was lost makes no second job."""
    headers = {"idempotency-key": fresh_request_id() if idempotency_key is None else idempotency_key}
    return _call("POST", _JOBS, parse_job, timeout_s, body=dict(spec), headers=headers)


def job(job_id: str, timeout_s: float | None) -> Call[TrainingJob]:
    """Ask for a job."""
    return _call("GET", _job_path(job_id), parse_job, timeout_s)


def jobs(limit: int, after: str | None, status: str | None, timeout_s: float | None) -> Call[TrainingJobPage]:
    """Ask for a page of jobs."""
    return _call("GET", _JOBS + _query(limit=limit, after=after, status=status), parse_job_page, timeout_s)


def steer_job(job_id: str, verb: Literal["pause", "resume", "cancel"], timeout_s: float | None) -> Call[TrainingJob]:
    """Ask for a job to rest, go on, or end."""
    return _call("POST", f"{_job_path(job_id)}/{verb}", parse_job, timeout_s)


def promote(job_id: str, checkpoint: CheckpointName, timeout_s: float | None) -> Call[JsonObject]:
    """Have a job's weights served."""
    body: JsonObject = {"checkpoint": checkpoint}
    call = _call("POST", f"{_job_path(job_id)}/promote", parse_object, timeout_s, body=body)
    return replace(call, repeatable=False)  # twice would leave nothing to roll back to


def rollback(model: str, timeout_s: float | None) -> Call[JsonObject]:
    """Have the weights served that were before the last promotion."""
    path = model_path(model).replace("/v2/", "/v1/", 1)
    return replace(_call("POST", f"{path}/rollback", parse_object, timeout_s), repeatable=False)


def metrics(job_id: str, after_step: int, limit: int, timeout_s: float | None) -> Call[tuple[TrainingFigures, ...]]:
    """Ask for steps' figures."""
    path = f"{_job_path(job_id)}/metrics" + _query(after_step=after_step, limit=limit)
    return _call("GET", path, parse_metrics, timeout_s)


def journal(job_id: str, timeout_s: float | None) -> Call[tuple[BatchSizeCommit, ...]]:
    """Ask for the decisions about the batch size."""
    return _call("GET", f"{_job_path(job_id)}/journal", parse_journal, timeout_s)


def checkpoints(job_id: str, timeout_s: float | None) -> Call[tuple[JobCheckpoint, ...]]:
    """Ask for a job's saved states."""
    return _call("GET", f"{_job_path(job_id)}/checkpoints", parse_checkpoints, timeout_s)


def events_path(job_id: str) -> str:
    """Return where a job's events stream."""
    return f"{_job_path(job_id)}/events"


def upload_dataset(file: Path, name: str | None, form: str | None, timeout_s: float | None) -> Call[Dataset]:
    """Send a file, piece by piece."""
    request = EncodedRequest(
        method="POST",
        path=_DATASETS + _query(name=file.stem if name is None else name, format=form),
        headers={"content-type": "application/octet-stream"},
        file=file,
    )
    return Call(
        render=lambda _: request,
        parse=lambda answer: parse_dataset(answer.body),
        timeout_s=timeout_s,
        repeatable=False,
    )


def adopt_dataset(path: str, name: str | None, form: str | None, timeout_s: float | None) -> Call[Dataset]:
    """Make known what lies below the daemon's data root."""
    body = {"path": path, "name": name, "format": form}
    known = {key: value for key, value in body.items() if value is not None}
    return _call("POST", _DATASETS, parse_dataset, timeout_s, body=known)


def datasets(timeout_s: float | None) -> Call[tuple[Dataset, ...]]:
    """Ask for the list of datasets."""
    return _call("GET", _DATASETS, parse_datasets, timeout_s)


def dataset(dataset_id: str, timeout_s: float | None) -> Call[Dataset]:
    """Ask for a dataset."""
    return _call("GET", _dataset_path(dataset_id), parse_dataset, timeout_s)


def delete_dataset(dataset_id: str, timeout_s: float | None) -> Call[None]:
    """Have a dataset forgotten, and what was uploaded deleted."""
    return replace(_call("DELETE", _dataset_path(dataset_id), lambda _: None, timeout_s), repeatable=False)


def _job_path(job_id: str) -> str:
    return f"{_JOBS}/{_part(job_id)}"


def _dataset_path(dataset_id: str) -> str:
    return f"{_DATASETS}/{_part(dataset_id)}"


def _part(name: str) -> str:
    if name in {"", ".", ".."}:
        raise ValueError(f"{name!r} is no id")
    return quote(name, safe="")


def _query(**parameters: str | int | None) -> str:
    given = urlencode({name: value for name, value in parameters.items() if value is not None}, quote_via=quote)
    return f"?{given}" if given else ""


def _call(
    method: str,
    path: str,
    parse: Callable[[bytes], T],
    timeout_s: float | None,
    *,
    body: JsonObject | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call[T]:
    content = b"" if body is None else json.dumps(body, allow_nan=False).encode("ascii")
    kind = {} if body is None else {"content-type": "application/json"}
    request = EncodedRequest(method=method, path=path, headers={**kind, **(headers or {})}, body=content)
    return Call(render=lambda _: request, parse=lambda answer: parse(answer.body), timeout_s=timeout_s)
