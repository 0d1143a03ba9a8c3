"""Training calls through both clients: what they send, and what they make of the answer."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from client_rig import VirtualTime

import batchd_client
from batchd_client import (
    AsyncClient,
    AsyncTraining,
    BatchSizeCommit,
    Client,
    ConnectionFailed,
    Dataset,
    JobCheckpoint,
    ProtocolError,
    ServerError,
    Training,
    TrainingFigures,
    TrainingJobPage,
)
from batchd_client.httpx_bridge import CHUNK_BYTES

JOB = "job-0123456789abcdef"
FIGURES = {"step": 3, "examples": 96, "epoch": 0.5, "loss": 2, "accuracy": None, "batch_size": 32, "seconds": 0.25}
DOCUMENT = {
    "model": "m",
    "dataset": "d",
    "epochs": 2,
    "id": JOB,
    "object": "training.job",
    "status": "running",
    "reason": None,
    "created_at": 1.5,
    "started_at": 2,
    "finished_at": None,
    "progress": FIGURES,
}
DATASET = {
    "id": "ds-1",
    "object": "dataset",
    "name": "n",
    "format": "npz",
    "bytes": 5,
    "examples": 7,
    "created_at": 1,
    "sha256": None,
}
COMMIT = {"step": 9, "schedule": "linear", "raw": None, "smoothed": 32, "size": 40, "reason": "why", "changed": True}
SAVED = {"step": 9, "created_at": 1.0, "bytes": 5, "validation_accuracy": 0.5, "best": True}

Connect = Callable[..., Any]


class Both:
    """The training part of a client of either kind, blocking."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if isinstance(self._client, Client):
            method: Callable[..., Any] = getattr(self._client.training, name)
            return method
        asynchronous = getattr(self._client._client.training, name)

        async def run(*args: Any, **options: Any) -> Any:
            return await asynchronous(*args, **options)

        return lambda *args, **options: asyncio.run(run(*args, **options))


def answered(connect: Connect, body: Any, status: int = 200) -> tuple[Both, list[httpx.Request]]:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, json=body)

    return Both(connect(handler)), seen


def methods(kind: type) -> dict[str, Any]:
    return {name: method for name, method in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_both_kinds_have_the_same_methods_with_the_same_parameters_and_words() -> None:
    blocking, asynchronous = methods(Training), methods(AsyncTraining)
    assert blocking.keys() == asynchronous.keys()
    for name, method in blocking.items():
        other = asynchronous[name]
        assert inspect.iscoroutinefunction(other) or inspect.isasyncgenfunction(other), name
        assert inspect.signature(method).parameters == inspect.signature(other).parameters, name
        assert inspect.getdoc(method) == inspect.getdoc(other), name
    with Client() as client:
        assert isinstance(client.training, Training)
    assert isinstance(AsyncClient().training, AsyncTraining)


def test_the_documentation_names_every_method(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "docs" / "client.md").read_text()
    assert [name for name in methods(Training) if f"`training.{name}(" not in text] == []


def test_settings_of_a_job_are_those_that_the_daemon_knows() -> None:
    from batchd_server.training.job_spec import JobSpec

    known = set(JobSpec.model_fields) - {"model", "dataset"}
    assert set(batchd_client.JobSettings.__annotations__) == known


def test_figures_are_those_that_the_daemon_tells() -> None:
    from batchd_server.training.records import Checkpoint, StepMetrics

    assert {field.name for field in fields(TrainingFigures)} == {field.name for field in fields(StepMetrics)}
    told = {field.name.replace("created", "created_at") for field in fields(Checkpoint)} - {"path"}
    assert {field.name for field in fields(JobCheckpoint)} == told


def test_a_job_is_submitted_with_a_key_that_stays_the_same(connect: Connect, time: VirtualTime) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) == 1:
            raise httpx.ReadError("reset by peer")
        return httpx.Response(201, json=DOCUMENT)

    training = Both(connect(handler))
    job = training.create("m", "d", epochs=2, optimizer={"name": "sgd", "lr": 0.1}, metadata={"run": 1})
    assert (job.id, job.status, job.final, job.created_at, job.started_at) == (JOB, "running", False, 1.5, 2.0)
    assert job.document == DOCUMENT
    first, second = seen
    assert (first.method, first.url.path) == ("POST", "/prefix/v1/training/jobs")
    body = {"model": "m", "dataset": "d", "epochs": 2, "optimizer": {"name": "sgd", "lr": 0.1}, "metadata": {"run": 1}}
    assert json.loads(first.content) == body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    training.create("m", "d", epochs=2)
    training.create("m", "d", epochs=2, idempotency_key="mine")
    keys = [request.headers["idempotency-key"] for request in seen[1:]]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_what_is_not_json_is_not_sent(connect: Connect) -> None:
    training, seen = answered(connect, DOCUMENT)
    with pytest.raises(ValueError, match="JSON"):
        training.create("m", "d", optimizer={"lr": float("nan")})
    assert seen == []


FIGURES_READ = TrainingFigures(
    step=3,
    examples=96,
    epoch=0.5,
    loss=2.0,
    accuracy=None,
    validation_loss=None,
    validation_accuracy=None,
    batch_size=32,
    learning_rate=None,
    noise_scale=None,
    microbatch=None,
    device_share=None,
    seconds=0.25,
)
DATASET_READ = Dataset(id="ds-1", name="n", format="npz", bytes=5, examples=7, created_at=1.0, sha256=None)
COMMIT_READ = BatchSizeCommit(step=9, schedule="linear", raw=None, smoothed=32.0, size=40, reason="why", changed=True)
SAVED_READ = JobCheckpoint(step=9, created_at=1.0, bytes=5, validation_accuracy=0.5, best=True)


@pytest.mark.parametrize(
    ("ask", "sent", "body", "answer", "result"),
    [
        (
            lambda training: training.jobs(limit=3, after="job 1", status="paused"),
            ("GET", "/v1/training/jobs?limit=3&after=job%201&status=paused"),
            None,
            {"data": [], "has_more": True},
            TrainingJobPage(jobs=(), has_more=True),
        ),
        (
            lambda training: training.metrics(JOB, after_step=2, limit=5),
            ("GET", f"/v1/training/jobs/{JOB}/metrics?after_step=2&limit=5"),
            None,
            {"data": [FIGURES], "has_more": False},
            (FIGURES_READ,),
        ),
        (
            lambda training: training.journal(JOB),
            ("GET", f"/v1/training/jobs/{JOB}/journal"),
            None,
            {"data": [COMMIT]},
            (COMMIT_READ,),
        ),
        (
            lambda training: training.checkpoints(JOB),
            ("GET", f"/v1/training/jobs/{JOB}/checkpoints"),
            None,
            {"data": [SAVED]},
            (SAVED_READ,),
        ),
        (
            lambda training: training.promote(JOB),
            ("POST", f"/v1/training/jobs/{JOB}/promote"),
            {"checkpoint": "best"},
            {"step": 9},
            {"step": 9},
        ),
        (
            lambda training: training.promote(JOB, 7),
            ("POST", f"/v1/training/jobs/{JOB}/promote"),
            {"checkpoint": 7},
            {"step": 7},
            {"step": 7},
        ),
        (lambda training: training.rollback("m/1"), ("POST", "/v1/models/m%2F1/rollback"), None, {}, {}),
        (lambda training: training.datasets(), ("GET", "/v1/datasets"), None, {"data": [DATASET]}, (DATASET_READ,)),
        (lambda training: training.dataset("ds-1"), ("GET", "/v1/datasets/ds-1"), None, DATASET, DATASET_READ),
        (lambda training: training.delete_dataset("ds-1"), ("DELETE", "/v1/datasets/ds-1"), None, {}, None),
        (
            lambda training: training.adopt_dataset("a/b.npz", name="n"),
            ("POST", "/v1/datasets"),
            {"path": "a/b.npz", "name": "n"},
            DATASET,
            DATASET_READ,
        ),
    ],
)
def test_calls_speak_the_protocol(
    connect: Connect, ask: Callable[[Any], Any], sent: tuple[str, str], body: Any, answer: Any, result: Any
) -> None:
    training, seen = answered(connect, answer)
    assert ask(training) == result
    (request,) = seen
    assert (request.method, request.url.raw_path.decode().removeprefix("/prefix")) == sent
    assert (json.loads(request.content) if request.content else None) == body


@pytest.mark.parametrize("verb", ["job", "pause", "resume", "cancel"])
@pytest.mark.parametrize("status", ["queued", "pausing", "cancelled", "failed", "succeeded"])
def test_a_job_comes_back_as_it_stands(connect: Connect, verb: str, status: str) -> None:
    training, seen = answered(connect, {**DOCUMENT, "status": status})
    job = getattr(training, verb)(JOB)
    assert job.progress == FIGURES_READ
    assert (job.status, job.final) == (status, status in {"cancelled", "failed", "succeeded"})
    path = f"/prefix/v1/training/jobs/{JOB}" + ("" if verb == "job" else f"/{verb}")
    assert (seen[0].method, seen[0].url.path) == ("GET" if verb == "job" else "POST", path)


@pytest.mark.parametrize("job_id", ["", ".", ".."])
def test_what_is_no_id_is_not_sent(connect: Connect, job_id: str) -> None:
    training, seen = answered(connect, DOCUMENT)
    with pytest.raises(ValueError, match="no id"):
        training.job(job_id)
    assert seen == []


def test_an_id_cannot_leave_its_place(connect: Connect) -> None:
    training, seen = answered(connect, DOCUMENT)
    training.job("../../status?x=1")
    assert seen[0].url.raw_path == b"/prefix/v1/training/jobs/..%2F..%2Fstatus%3Fx%3D1"


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        *((lambda training: training.job(JOB), without(DOCUMENT, name)) for name in ("id", "status", "progress")),
        (lambda training: training.job(JOB), {**DOCUMENT, "created_at": True}),
        (lambda training: training.job(JOB), {**DOCUMENT, "created_at": "now"}),
        (lambda training: training.job(JOB), {**DOCUMENT, "progress": {**FIGURES, "loss": 10**400}}),
        (lambda training: training.job(JOB), {**DOCUMENT, "progress": {**FIGURES, "step": 1.5}}),
        (lambda training: training.jobs(), {"data": []}),
        (lambda training: training.jobs(), {"has_more": False}),
        (lambda training: training.metrics(JOB), {"data": [1]}),
        (lambda training: training.journal(JOB), {"data": [without(COMMIT, "reason")]}),
        (lambda training: training.checkpoints(JOB), {"data": [without(SAVED, "best")]}),
        (lambda training: training.datasets(), {"data": [without(DATASET, "format")]}),
        (lambda training: training.promote(JOB), []),
    ],
)
def test_an_answer_of_something_else_is_a_protocol_error(
    connect: Connect, ask: Callable[[Any], Any], answer: Any
) -> None:
    training, _ = answered(connect, answer)
    with pytest.raises(ProtocolError):
        ask(training)


def test_a_refusal_names_the_field(connect: Connect) -> None:
    problem = {"status": 422, "detail": "there is no schedule 'lin'", "field": "batching.schedule.name", "code": "c"}
    training, _ = answered(connect, problem, 422)
    with pytest.raises(ServerError) as caught:
        training.create("m", "d", epochs=1)
    assert (caught.value.status, caught.value.field) == (422, "batching.schedule.name")


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 5])
def test_a_file_is_sent_whole_with_its_length(connect: Connect, tmp_path: Path, size: int) -> None:
    file = tmp_path / "lines of text.npz"
    content = bytes(range(256)) * (size // 256 + 1)
    file.write_bytes(content[:size])
    training, seen = answered(connect, DATASET, 201)
    assert training.upload_dataset(file, format="npz") == DATASET_READ
    (request,) = seen
    assert request.url.raw_path == b"/prefix/v1/datasets?name=lines%20of%20text&format=npz"
    assert request.headers["content-length"] == str(size)
    assert "transfer-encoding" not in request.headers
    assert request.content == content[:size]


def test_an_upload_is_tried_again_where_the_server_refused_it_but_not_where_it_may_have_taken_it(
    connect: Connect, tmp_path: Path
) -> None:
    file = tmp_path / "d.npz"
    file.write_bytes(b"content")
    bodies: list[bytes] = []

    def busy(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(503, json={}) if len(bodies) == 1 else httpx.Response(201, json=DATASET)

    assert Both(connect(busy)).upload_dataset(file) == DATASET_READ
    assert bodies == [b"content", b"content"]
    lost: list[httpx.Request] = []

    def gone(request: httpx.Request) -> httpx.Response:
        lost.append(request)
        raise httpx.ReadError("reset by peer")

    with pytest.raises(ConnectionFailed):
        Both(connect(gone)).upload_dataset(file)
    assert len(lost) == 1


@pytest.mark.parametrize(
    ("ask", "attempts"),
    [
        (lambda training: training.promote(JOB), 1),
        (lambda training: training.rollback("m"), 1),
        (lambda training: training.delete_dataset("ds-1"), 1),
        (lambda training: training.pause(JOB), 3),
        (lambda training: training.job(JOB), 3),
    ],
)
def test_what_must_not_happen_twice_is_not_tried_again_after_a_lost_answer(
    connect: Connect, ask: Callable[[Any], Any], attempts: int
) -> None:
    seen: list[httpx.Request] = []

    def lost(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        raise httpx.ReadError("reset by peer")

    with pytest.raises(ConnectionFailed):
        ask(Both(connect(lost)))
    assert len(seen) == attempts


def test_a_file_that_is_not_there_is_an_os_error(connect: Connect, tmp_path: Path) -> None:
    training, seen = answered(connect, DATASET)
    with pytest.raises(FileNotFoundError):
        training.upload_dataset(tmp_path / "absent.npz")
    assert seen == []


def test_records_can_be_replaced_but_not_changed() -> None:
    changed = replace(FIGURES_READ, step=4)
    assert (changed.step, FIGURES_READ.step) == (4, 3)
    with pytest.raises(AttributeError):
        FIGURES_READ.step = 5  # type: ignore[misc]
