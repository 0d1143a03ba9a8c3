"""Training's routes without a socket: every refusal names its field, and what the store holds is what clients see."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from training_front_rig import DATASET, JOB, TrainingDispatcher, app_at, training_rig

from batchd.governor import Commit
from batchd.lr_rules import LR_RULES
from batchd.schedules import SCHEDULES
from batchd_server.errors import Unavailable
from batchd_server.front.training.parameters import MAX_JOB_BYTES
from batchd_server.training.job_spec import JobSpec, JobStatus
from batchd_server.training.records import Checkpoint, Progress, StepMetrics

pytestmark = pytest.mark.asyncio

JOBS = "/v1/training/jobs"


def problem(response: httpx.Response, status: int, field: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document.get("field") == field
    return document


async def test_a_job_is_its_json_and_what_became_of_it(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        asked = {**JOB, "seed": 7, "batching": {"schedule": {"name": "linear", "increment": 3}}, "metadata": {"a": 1}}
        response = await front.client.post(JOBS, json=asked)
        job = response.json()
        assert response.status_code == 201
        assert response.headers["location"] == f"{JOBS}/{job['id']}"
        assert job["object"] == "training.job"
        assert (job["status"], job["reason"], job["started_at"], job["finished_at"]) == ("queued", None, None, None)
        assert job["progress"]["step"] == 0
        assert job["batching"]["schedule"] == {"name": "linear", "increment": 3}
        assert {name: job[name] for name in JobSpec.model_fields} == JobSpec.model_validate(asked).model_dump(
            mode="json"
        )
        assert (await front.client.get(f"{JOBS}/{job['id']}")).json() == job
        assert front.dispatcher.told == [("training", {})]  # the device process was told
        front.store.update(job["id"], status=JobStatus.RUNNING, progress=Progress(step=3, loss=0.5))
        running = (await front.client.get(f"{JOBS}/{job['id']}")).json()
        assert running["status"] == "running"
        assert running["started_at"] >= running["created_at"]
        assert (running["progress"]["step"], running["progress"]["loss"]) == (3, 0.5)


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"batching": {"schedule": {"name": "liner"}}}, "batching.schedule.name", list(SCHEDULES)),
        ({"batching": {"schedule": {"name": "linear", "slope": 1}}}, "batching.schedule", ["slope", "every_examples"]),
        ({"batching": {"schedule": {"name": "linear", "increment": "x"}}}, "batching.schedule", ["increment"]),
        ({"batching": {"schedule": {}}}, "batching.schedule.name", []),
        ({"batching": {"lr_rule": "quadratic"}}, "batching.lr_rule.name", list(LR_RULES)),
        ({"batching": {"lr_rule": {"name": "sqrt", "x": 1}}}, "batching.lr_rule", ["'x'", "warmup_epochs"]),
        ({"batching": {"lr_rule": "adam_sde"}, "optimizer": {"name": "sgd"}}, "batching.lr_rule.name", ["sgd"]),
        ({"batching": {"min": 64, "max": 32}}, "batching", ["min must not be larger than max", "64"]),
        ({"batching": {"min": 8, "initial": 4}}, "batching", ["8..512"]),
        ({"batching": {"max": 1001}}, "batching.max", ["1000", "1001"]),
        ({"batching": {"governor": {"haste": 1}}}, "batching.governor.haste", ["cooldown_steps"]),
        ({"batching": {"governor": {"smoothing": 0}}}, "batching.governor", ["smoothing"]),
        ({"batching": {"microbatch": 4}}, "batching.microbatch", []),
        ({"model": "regressor", "batching": {"schedule": {"name": "entropy"}}}, "batching.schedule.name", ["entropy"]),
        ({"model": "scale"}, "model", ["cannot be trained"]),
        ({"model": "nosuch"}, "model", ["nosuch"]),
        ({"dataset": "nosuch"}, "dataset", ["nosuch"]),
        ({"epochs": None}, "body", ["epochs or max_steps"]),
        ({"epochs": 0}, "epochs", []),
        ({"optimizer": {"name": "rmsprop"}}, "optimizer.name", ["adamw"]),
        ({"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}, "optimizer.betas", ["momentum"]),
        ({"optimizer": {"name": "adam", "betas": [0.9, 1.0]}}, "optimizer.betas", ["[0, 1)"]),
        ({"optimizer": {"lr": 0}}, "optimizer.lr", []),
        ({"colour": "red"}, "colour", []),
        ({"metadata": {"a": []}}, "metadata.a", []),
        ({"max_steps": 10**30}, "max_steps", []),
        ({"max_steps": "3"}, "max_steps", []),
        ({"seed": True}, "seed", []),
        ({"fresh": 1}, "fresh", []),
    ],
)
async def test_a_job_that_cannot_work_is_refused_by_its_field(
    tmp_path: Path, changes: dict[str, Any], field: str, told: list[str]
) -> None:
    async with training_rig(tmp_path) as front:
        response = await front.client.post(JOBS, json={**JOB, **changes})
        assert response.status_code == 422, response.text
        refusal = response.json()
        assert refusal["field"].startswith(field)
        assert [word for word in told if word not in refusal["detail"]] == []
        assert refusal["detail"].startswith(refusal["field"]) or field in ("model", "dataset")
        assert front.store.jobs(limit=9) == []
        assert front.dispatcher.told == []


async def test_every_schedule_can_be_asked_for_with_its_defaults(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        for name in SCHEDULES:
            schedule = {"name": name, **({"accept_not_portable": True} if name == "memory" else {})}
            assert (await front.submit(batching={"schedule": schedule}))["batching"]["schedule"] == schedule
        for rule in LR_RULES:
            assert (await front.submit(batching={"lr_rule": rule}))["batching"]["lr_rule"] == rule


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null"])
async def test_what_is_not_json_is_a_bad_request(tmp_path: Path, body: bytes) -> None:
    async with training_rig(tmp_path) as front:
        problem(await front.client.post(JOBS, content=body), 400, "body")


async def test_a_job_of_unreasonable_size_is_refused(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        large = {**JOB, "metadata": {"text": "x" * MAX_JOB_BYTES}}
        problem(await front.client.post(JOBS, json=large), 413, "body")


async def test_a_key_queues_a_job_once(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        key = {"Idempotency-Key": "k"}
        answers = await asyncio.gather(*(front.client.post(JOBS, json=JOB, headers=key) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 1
        other = await front.client.post(JOBS, json={**JOB, "seed": 1}, headers=key)
        problem(other, 409, "Idempotency-Key")
        long = await front.client.post(JOBS, json=JOB, headers={"Idempotency-Key": "x" * 256})
        problem(long, 400, "Idempotency-Key")
        assert len(front.store.jobs(limit=9)) == 1


async def test_jobs_are_listed_in_pages(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        made = [(await front.submit(seed=seed))["id"] for seed in range(5)]
        found: list[str] = []
        more = True
        while more:
            query = {"limit": 2, **({"after": found[-1]} if found else {})}
            page = (await front.client.get(JOBS, params=query)).json()
            found += [job["id"] for job in page["data"]]
            more = page["has_more"]
        assert found == made[::-1]
        front.store.update(made[1], status=JobStatus.RUNNING)
        running = (await front.client.get(JOBS, params={"status": "running"})).json()
        assert ([job["id"] for job in running["data"]], running["has_more"]) == ([made[1]], False)
        problem(await front.client.get(JOBS, params={"limit": "0"}), 400, "limit")
        problem(await front.client.get(JOBS, params={"limit": "1e3"}), 400, "limit")
        problem(await front.client.get(JOBS, params={"status": "tired"}), 400, "status")
        problem(await front.client.get(JOBS, params={"after": "job-0"}), 404, "after")


@pytest.mark.parametrize(
    ("method", "rest"),
    [
        *(("GET", rest) for rest in ("", "/events", "/metrics", "/journal", "/checkpoints")),
        *(("POST", rest) for rest in ("/pause", "/resume", "/cancel", "/promote")),
    ],
)
async def test_a_job_that_is_not_there_is_not_found(tmp_path: Path, method: str, rest: str) -> None:
    async with training_rig(tmp_path) as front:
        problem(await front.client.request(method, f"{JOBS}/job-0{rest}"), 404, "job")


async def test_wishes_are_written_for_the_runner(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        job_id = (await front.submit())["id"]
        for verb, wanted, status in (
            ("pause", "pause", "pausing"),
            ("resume", "run", "queued"),
            ("cancel", "cancel", "cancelling"),
        ):
            answer = await front.client.post(f"{JOBS}/{job_id}/{verb}")
            assert (answer.status_code, answer.json()["status"]) == (200, status)
            assert front.store.job(job_id).wanted == wanted
        assert front.dispatcher.told == [("training", {})] * 4
        problem(await front.client.post(f"{JOBS}/{job_id}/resume"), 409)
        front.store.update(job_id, status=JobStatus.CANCELLED)
        for verb in ("pause", "resume", "cancel"):
            assert "cancelled" in problem(await front.client.post(f"{JOBS}/{job_id}/{verb}"), 409)["detail"]


async def test_reading_and_wishing_need_no_device_process(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        front.dispatcher.refusal = Unavailable("the device process is not there")
        job_id = (await front.submit())["id"]
        assert (await front.client.post(f"{JOBS}/{job_id}/pause")).status_code == 200
        assert (await front.client.get(f"{JOBS}/{job_id}")).json()["status"] == "pausing"
        status = (await front.client.get("/v1/status")).json()
        assert status["training"] == {"jobs": {"pausing": 1}, "share": None, "trouble": None}


async def test_the_journals_are_told_as_they_are(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        job_id = (await front.submit())["id"]
        steps = [StepMetrics(step=step, examples=step * 8, epoch=step / 4, loss=1 / step) for step in range(1, 6)]
        commit = Commit(step=3, schedule="linear", raw=None, smoothed=8.5, size=16, reason="grows", changed=True)
        saved = Checkpoint(step=4, path=Path("/secret/4"), created=5.0, bytes=6, validation_accuracy=0.5, best=True)
        front.store.add_metrics(job_id, steps)
        front.store.add_commit(job_id, commit)
        front.store.add_checkpoint(job_id, saved)
        page = (await front.client.get(f"{JOBS}/{job_id}/metrics", params={"after_step": 1, "limit": 2})).json()
        assert ([row["step"] for row in page["data"]], page["has_more"]) == ([2, 3], True)
        assert page["data"][0] == {
            "step": 2,
            "examples": 16,
            "epoch": 0.5,
            "loss": 0.5,
            **dict.fromkeys(("accuracy", "validation_loss", "validation_accuracy", "batch_size", "learning_rate")),
            **dict.fromkeys(("noise_scale", "microbatch", "device_share", "seconds")),
        }
        journal = (await front.client.get(f"{JOBS}/{job_id}/journal")).json()["data"]
        assert journal == [
            {
                "step": 3,
                "schedule": "linear",
                "raw": None,
                "smoothed": 8.5,
                "size": 16,
                "reason": "grows",
                "changed": True,
            }
        ]
        answer = await front.client.get(f"{JOBS}/{job_id}/checkpoints")
        assert answer.json()["data"] == [
            {"step": 4, "created_at": 5.0, "bytes": 6, "validation_accuracy": 0.5, "best": True}
        ]
        assert "secret" not in answer.text


async def test_a_promotion_names_the_step(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        job_id = (await front.submit())["id"]
        promote = f"{JOBS}/{job_id}/promote"
        problem(await front.client.post(promote), 409)  # nothing is saved yet
        for step, best in ((10, False), (20, True), (30, False)):
            front.store.add_checkpoint(
                job_id,
                Checkpoint(step=step, path=Path("/x"), created=1.0, bytes=1, validation_accuracy=None, best=best),
            )
        front.dispatcher.told.clear()
        for body, step in ((None, 20), ({}, 20), ({"checkpoint": "last"}, 30), ({"checkpoint": 10}, 10)):
            answer = await front.client.post(promote, **({} if body is None else {"json": body}))
            assert (answer.status_code, answer.json()["step"]) == (200, step)
            assert front.dispatcher.told.pop() == (
                "promote",
                {"model": "classifier", "job": job_id, "checkpoint": step},
            )
        assert (
            "10, 20, 30"
            in problem(await front.client.post(promote, json={"checkpoint": 11}), 404, "checkpoint")["detail"]
        )
        for wrong in ("newest", True, 1.5, None):
            problem(await front.client.post(promote, json={"checkpoint": wrong}), 400, "checkpoint")
        assert (await front.client.post("/v1/models/classifier/rollback")).json()["model"] == "classifier"
        assert front.dispatcher.told == [("rollback", {"model": "classifier"})]
        assert (await front.client.post("/v1/models/nosuch/rollback")).status_code == 404


async def test_datasets_are_listed_described_and_forgotten(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        listed = (await front.client.get("/v1/datasets")).json()["data"]
        assert [entry["name"] for entry in listed] == ["digit-lines", "lines"]
        assert "path" not in listed[1]
        for key in (DATASET.id, DATASET.name):
            assert (await front.client.get(f"/v1/datasets/{key}")).json() == listed[1]
        assert (await front.client.get("/v1/datasets/digit-lines")).json() == listed[0]
        job_id = (await front.submit())["id"]
        assert job_id in problem(await front.client.delete(f"/v1/datasets/{DATASET.id}"), 409)["detail"]
        front.store.update(job_id, status=JobStatus.CANCELLED)
        assert (await front.client.delete(f"/v1/datasets/{DATASET.id}")).status_code == 204
        problem(await front.client.delete(f"/v1/datasets/{DATASET.id}"), 404, "dataset")
        problem(await front.client.get(f"/v1/datasets/{DATASET.id}"), 404, "dataset")
        problem(await front.client.delete("/v1/datasets/digit-lines"), 409)


def npz() -> bytes:
    import io

    file = io.BytesIO()
    np.savez(file, x=np.zeros((4, 3), np.float32), y=np.arange(4))
    return file.getvalue()


async def test_an_upload_becomes_a_dataset(tmp_path: Path) -> None:
    content = npz()
    async with training_rig(tmp_path, uploads_max_bytes=len(content)) as front:
        query = {"name": "mine", "format": "npz"}
        answer = await front.client.post("/v1/datasets", params=query, content=content)
        assert answer.status_code == 201, answer.text
        dataset = answer.json()
        assert (dataset["name"], dataset["bytes"], dataset["examples"]) == ("mine", len(content), 4)
        path = front.store.dataset("mine").path
        assert path is not None
        assert path.read_bytes() == content
        assert path.is_relative_to(front.places.datasets)
        problem(await front.client.post("/v1/datasets", params=query, content=content), 409, "name")
        assert (await front.client.delete(f"/v1/datasets/{dataset['id']}")).status_code == 204
        assert not path.exists()

        async def endless() -> Any:
            while True:
                yield content

        for body in (content + b"x", endless()):
            problem(await front.client.post("/v1/datasets", params=query, content=body), 413, "body")
        problem(await front.client.post("/v1/datasets", params=query, content=b"rubbish"), 422, "body")
        problem(await front.client.post("/v1/datasets", content=content), 400, "name")
        packed = {"content-encoding": "gzip"}
        problem(
            await front.client.post("/v1/datasets", params=query, content=b"", headers=packed), 415, "Content-Encoding"
        )
        assert [path for path in front.places.datasets.rglob("*") if path.is_file()] == []


async def test_a_dataset_below_the_data_root_is_named_by_its_path(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "mine.npz").write_bytes(npz())
    (tmp_path / "outside.npz").write_bytes(npz())
    async with training_rig(tmp_path / "state", data_root=root) as front:
        answer = await front.client.post("/v1/datasets", json={"path": "deep/mine.npz"})
        assert answer.status_code == 201, answer.text
        assert answer.json()["name"] == "mine"
        for path in ("../outside.npz", "/etc/passwd", "deep/../../outside.npz"):
            refused = await front.client.post("/v1/datasets", json={"path": path, "name": "x"})
            assert refused.status_code == 422, path
            assert str(tmp_path) not in refused.text
        problem(await front.client.post("/v1/datasets", json={"path": "nosuch.npz", "name": "x"}), 404, "path")
        problem(await front.client.post("/v1/datasets", json={}), 400, "path")
        assert (await front.client.delete(f"/v1/datasets/{answer.json()['id']}")).status_code == 204
        assert (root / "deep" / "mine.npz").exists()  # it is not ours


async def test_without_a_data_root_no_path_is_taken(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        refused = await front.client.post("/v1/datasets", json={"path": "a.npz", "name": "x"})
        assert "data_root" in problem(refused, 422, "path")["detail"]


async def test_a_store_that_fails_is_503_and_inference_goes_on(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    app, _ = app_at(tmp_path / "state", TrainingDispatcher())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://front") as client:
        for _ in range(2):
            refusal = problem(await client.get(JOBS), 503)
            assert refusal["code"] == "store_failed"
            assert str(tmp_path) not in refusal["detail"]
        inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]
        assert (await client.post("/v2/models/scale/infer", json={"inputs": inputs})).status_code == 200
        training = (await client.get("/v1/status")).json()["training"]
        assert training == {"jobs": None, "share": None, "trouble": refusal["detail"]}
        (tmp_path / "state").unlink()
        assert (await client.get(JOBS)).status_code == 200  # it is tried again


async def test_the_description_holds_every_route_and_a_job_s_json(tmp_path: Path) -> None:
    async with training_rig(tmp_path) as front:
        document = (await front.client.get("/openapi.json")).json()
        paths = document["paths"]
        one = f"{JOBS}/{{job}}"
        expected = {JOBS, one, "/v1/datasets", "/v1/datasets/{dataset}", "/v1/models/{model}/rollback"}
        expected |= {f"{one}/{rest}" for rest in ("events", "metrics", "journal", "checkpoints", "promote", "cancel")}
        expected |= {"/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/{job}/events"}
        assert expected - set(paths) == set()
        body = paths[JOBS]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]) == set(JobSpec.model_fields)
        assert body["properties"]["batching"]["properties"]["schedule"]["properties"]["name"]["enum"] == list(SCHEDULES)
        assert "$ref" not in str(body)
