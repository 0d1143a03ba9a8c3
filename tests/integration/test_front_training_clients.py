"""Training by real HTTP: OpenAI's client drives the alias, and events are read on after every kind of interruption."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from training_front_rig import DATASET, JOB, TrainingDispatcher, serving_training

from batchd_server.front.training import event_stream
from batchd_server.training.job_spec import JobStatus
from batchd_server.training.store import TrainingStore

Event = tuple[int, str, dict[str, Any]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, TrainingStore]]:
    with serving_training(tmp_path) as (url, store):
        yield url, store


@pytest.fixture
def client(served: tuple[str, TrainingStore]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as client:
        yield client


def submit(url: str, **changes: Any) -> str:
    answer = httpx.post(f"{url}/v1/training/jobs", json={**JOB, **changes}, timeout=60)
    assert answer.status_code == 201, answer.text
    job: str = answer.json()["id"]
    return job


def read_events(response: httpx.Response) -> Iterator[Event]:
    """As a browser reads them: lines, until an empty one."""
    assert response.headers["content-type"].startswith("text/event-stream")
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield int(fields["id"]), fields["event"], orjson.loads(fields["data"])["data"]
            fields = {}


def test_openai_s_client_drives_a_job_from_beginning_to_end(
    client: openai.OpenAI, served: tuple[str, TrainingStore]
) -> None:
    url, store = served
    jobs = client.fine_tuning.jobs
    job = jobs.create(
        model="classifier",
        training_file="lines",
        seed=5,
        metadata={"owner": "me"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 16, "learning_rate_multiplier": 0.5}},
        },
    )
    assert (job.object, job.status, job.model, job.training_file) == (
        "fine_tuning.job",
        "queued",
        "classifier",
        "lines",
    )
    spec = store.job(job.id).spec
    assert (spec.epochs, spec.seed, spec.optimizer.lr) == (4, 5, 0.5e-3)
    assert (spec.batching.min, spec.batching.initial, spec.batching.max) == (16, 16, 16)
    store.update(job.id, status=JobStatus.RUNNING)
    store.add_event(job.id, "validation", {"step": 3, "loss": 0.5})
    assert jobs.retrieve(job.id).status == "running"
    assert httpx.get(f"{url}/v1/training/jobs/{job.id}", timeout=60).json()["metadata"] == {"owner": "me"}
    newest = jobs.list_events(job.id, limit=1)
    assert newest.has_more
    assert [event.message for event in jobs.list_events(job.id)] == ["validation: step 3, loss 0.5", "created"]
    assert [event.type for event in newest] == ["metrics", "message"]  # the client turns the page itself
    assert jobs.cancel(job.id).status == "running"  # OpenAI has no word for being cancelled
    store.update(job.id, status=JobStatus.CANCELLED)
    assert jobs.retrieve(job.id).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        jobs.cancel(job.id)
    others = [jobs.create(model="classifier", training_file=DATASET.id).id for _ in range(3)]
    assert [each.id for each in jobs.list(limit=2)] == [*others[::-1], job.id]
    store.update(others[0], status=JobStatus.FAILED, reason="loss is NaN at step 7")
    failed = jobs.retrieve(others[0])
    assert failed.error is not None
    assert failed.error.message == "loss is NaN at step 7"


def test_openai_s_client_is_told_what_is_wrong(client: openai.OpenAI) -> None:
    jobs = client.fine_tuning.jobs
    for wrong, field in (
        ({"model": "scale"}, "model"),
        ({"training_file": "nosuch"}, "dataset"),
        ({"suffix": "mine"}, "suffix"),
        ({"validation_file": "lines"}, "validation_file"),
        ({"hyperparameters": {"n_epochs": 0}}, "epochs"),
        ({"hyperparameters": {"learning_rate_multiplier": -1}}, "hyperparameters.learning_rate_multiplier"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"extra_body": {"training": {"batching": {"schedule": {"name": "liner"}}}}}, "batching.schedule.name"),
    ):
        asked: dict[str, Any] = {"model": "classifier", "training_file": "lines", **wrong}
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            jobs.create(**asked)
        assert caught.value.param == field, caught.value
    with pytest.raises(openai.NotFoundError):
        jobs.retrieve("job-0")
    with pytest.raises(openai.NotFoundError):
        jobs.list_events("job-0")


def test_what_openai_has_no_word_for_goes_beside(client: openai.OpenAI, served: tuple[str, TrainingStore]) -> None:
    training = {"max_steps": 9, "batching": {"schedule": {"name": "noise_scale"}}, "optimizer": {"lr": 0.25}}
    job = client.fine_tuning.jobs.create(model="classifier", training_file="lines", extra_body={"training": training})
    spec = served[1].job(job.id).spec
    assert (spec.epochs, spec.max_steps, spec.optimizer.lr) == (None, 9, 0.25)
    assert spec.batching.schedule.name == "noise_scale"


def test_a_request_that_is_sent_again_makes_one_job(served: tuple[str, TrainingStore]) -> None:
    url, store = served
    answers: list[httpx.Response] = []

    def post() -> None:
        answers.append(httpx.post(f"{url}/v1/training/jobs", json=JOB, headers={"Idempotency-Key": "mine"}, timeout=60))

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201] * 6
    assert {answer.json()["id"] for answer in answers} == {job.id for job in store.jobs(limit=9)}
    assert len(store.jobs(limit=9)) == 1


def test_events_come_as_they_happen_and_end_with_the_job(served: tuple[str, TrainingStore]) -> None:
    url, store = served
    job = submit(url)
    with httpx.stream("GET", f"{url}/v1/training/jobs/{job}/events", timeout=30) as response:
        events = read_events(response)
        assert next(events)[1] == "created"
        for step in range(3):
            made = store.add_event(job, "checkpoint", {"step": step})
            assert next(events) == (made, "checkpoint", {"step": step})
        store.update(job, status=JobStatus.SUCCEEDED)  # a runner may say so before it writes the event
        last = store.add_event(job, "succeeded", {})
        assert list(events) == [(last, "succeeded", {})]


def test_no_event_is_lost_or_told_twice_over_many_connections(served: tuple[str, TrainingStore]) -> None:
    url, store = served
    job, other = submit(url), submit(url)
    for step in range(20):
        store.add_event(job, "validation", {"step": step})
        store.add_event(other, "validation", {"step": -step})
    told: list[Event] = []
    cuts = 0
    while not told or told[-1][1] != "failed":
        headers = {"Last-Event-ID": str(told[-1][0])} if told else {}
        with httpx.stream("GET", f"{url}/v1/training/jobs/{job}/events", headers=headers, timeout=30) as response:
            for number, event in enumerate(read_events(response)):
                told.append(event)
                if number == 4:
                    break  # the connection is lost
        cuts += 1
        if cuts == 3:
            store.add_event(job, "failed", {"reason": "x", "step": 20})
            store.update(job, status=JobStatus.FAILED, reason="x")
    assert [event[2].get("step") for event in told] == [None, *range(21)]
    assert [event[0] for event in told] == [event.id for event in store.events(job, limit=99)]
    assert cuts == 5


def test_a_job_that_ended_long_ago_is_told_and_done(served: tuple[str, TrainingStore]) -> None:
    url, store = served
    job = submit(url)
    store.add_event(job, "cancelled", {})
    store.update(job, status=JobStatus.CANCELLED)
    with httpx.stream("GET", f"{url}/v1/training/jobs/{job}/events", timeout=30) as response:
        told = list(read_events(response))
    assert [kind for _, kind, _ in told] == ["created", "cancelled"]
    headers = {"Last-Event-ID": str(told[-1][0])}
    answer = httpx.get(f"{url}/v1/training/jobs/{job}/events", headers=headers, timeout=30)
    assert list(read_events(answer)) == []
    for wrong in ("x", "-1", "1.5", "9" * 30):
        refused = httpx.get(f"{url}/v1/training/jobs/{job}/events", headers={"Last-Event-ID": wrong}, timeout=60)
        assert refused.status_code == 400


def test_a_stream_ends_when_the_server_stops(tmp_path: Path) -> None:
    """A client that follows a job must not hold up a restart."""
    dispatcher = TrainingDispatcher()
    with (
        serving_training(tmp_path, dispatcher) as (url, _),
        httpx.stream("GET", f"{url}/v1/training/jobs/{submit(url)}/events", timeout=30) as response,
    ):
        events = read_events(response)
        assert next(events)[1] == "created"
        dispatcher.draining = True
        assert list(events) == []


def test_a_silent_stream_says_that_it_lives(served: tuple[str, TrainingStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.1)
    url, _ = served
    with httpx.stream("GET", f"{url}/v1/training/jobs/{submit(url)}/events", timeout=30) as response:
        comments = (line for line in response.iter_lines() if line.startswith(":"))
        assert next(comments) == next(comments)


def test_an_upload_streams_from_and_to_the_disk(served: tuple[str, TrainingStore], tmp_path: Path) -> None:
    """More than one chunk, of unknown length, as `curl -T` sends it."""
    url, store = served
    rows = 10_000

    def lines() -> Iterator[bytes]:
        for number in range(rows):
            yield b'{"x": [%d, 1, 2], "label": %d}\n' % (number, number % 3)

    answer = httpx.post(f"{url}/v1/datasets", params={"name": "big", "format": "jsonl"}, content=lines(), timeout=60)
    assert answer.status_code == 201, answer.text
    assert answer.json()["examples"] == rows
    path = store.dataset("big").path
    assert path is not None
    assert path.stat().st_size == answer.json()["bytes"]
    assert submit(url, dataset="big").startswith("job-")
