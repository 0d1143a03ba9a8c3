"""A front with a job store and models that say they can be trained. Nothing trains: tests play the runner."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from front_rig import InlineDispatcher, Scale

from batchd.schedules import Task
from batchd_server.config.settings import ModelSettings, Settings
from batchd_server.front.app import create_app
from batchd_server.models.protocol import Model
from batchd_server.training.places import Places
from batchd_server.training.records import Dataset
from batchd_server.training.store import TrainingStore


class Learner(Scale):
    """Can be trained, as far as a front is concerned."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @property
    def task(self) -> Task:
        return self._task

    def new_network(self, *, fresh: bool) -> Any:
        raise AssertionError("a front trains nothing")

    def examples(self, dataset: Any) -> Any:
        raise AssertionError("a front trains nothing")

    def losses(self, network: Any, batch: Any) -> Any:
        raise AssertionError("a front trains nothing")

    def adopt(self, weights: Mapping[str, Any]) -> None:
        raise AssertionError("a front trains nothing")


MODELS: dict[str, Model] = {
    "classifier": Learner(Task("classification", 10)),
    "regressor": Learner(Task("regression")),
    "scale": Scale(),
}
DATASET = Dataset(
    id="ds-0123456789abcdef",
    name="lines",
    format="npz",
    path=Path("/data/lines.npz"),
    bytes=1000,
    examples=1000,
    created=1.0,
    sha256="0" * 64,
)
JOB: dict[str, Any] = {"model": "classifier", "dataset": "lines", "epochs": 2}


@dataclass
class TrainingDispatcher(InlineDispatcher):
    """Keeps what the device process would be told."""

    models: Mapping[str, Model] = field(default_factory=lambda: dict(MODELS))
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def control(self, action: str, **arguments: Any) -> Any:
        if action not in ("training", "promote", "rollback"):
            return await super().control(action, **arguments)
        if self.refusal is not None:
            raise self.refusal
        self.told.append((action, arguments))
        return None


def app_at(directory: Path, dispatcher: InlineDispatcher, **training: Any) -> tuple[FastAPI, Places]:
    """An application whose training state lies in `directory`."""
    settings = Settings.model_validate(
        {
            "models": {name: ModelSettings(entrypoint="front_rig:Scale") for name in dispatcher.models},
            "state": {"directory": directory},
            "training": training,
        }
    )
    places = Places.of(settings, "ipc:///nowhere/link")
    return create_app(settings, dispatcher, places=places), places


@dataclass
class TrainingRig:
    """One application, its store as the runner has it, and what stands around it."""

    client: httpx.AsyncClient
    dispatcher: TrainingDispatcher
    store: TrainingStore
    places: Places

    async def submit(self, **changes: Any) -> dict[str, Any]:
        """Submit a job that works, with `changes`."""
        response = await self.client.post("/v1/training/jobs", json={**JOB, **changes})
        assert response.status_code == 201, response.text
        job: dict[str, Any] = response.json()
        return job


@asynccontextmanager
async def training_rig(directory: Path, **training: Any) -> AsyncIterator[TrainingRig]:
    """An application called in this process, with one dataset."""
    dispatcher = TrainingDispatcher()
    app, places = app_at(directory, dispatcher, **training)
    store = TrainingStore.open(places.database)
    store.add_dataset(DATASET)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://front") as client,
    ):
        yield TrainingRig(client, dispatcher, store, places)
    store.close()


@contextmanager
def serving_training(
    directory: Path, dispatcher: TrainingDispatcher | None = None, **training: Any
) -> Iterator[tuple[str, TrainingStore]]:
    """A real HTTP server in a thread; gives its URL and the store as the runner has it."""
    app, places = app_at(directory, dispatcher or TrainingDispatcher(), **training)
    store = TrainingStore.open(places.database)
    store.add_dataset(DATASET)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    listener = config.bind_socket()
    listener.listen()
    http_server = uvicorn.Server(config)
    thread = threading.Thread(target=http_server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", store
    finally:
        http_server.should_exit = True
        thread.join(timeout=30)
        listener.close()
        store.close()
        assert not thread.is_alive()
