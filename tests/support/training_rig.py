"""A device process with a trainable model, and its job store as a front sees it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from device_process_rig import Device

from batchd_server.config.settings import (
    BatchingSettings,
    DeviceSettings,
    ModelSettings,
    ServerSettings,
    Settings,
    SimulatedDeviceSettings,
    StateSettings,
)
from batchd_server.link.codec import pack_tensors
from batchd_server.link.messages import Offer, OfferedItem
from batchd_server.training.job_spec import JobSpec, JobStatus
from batchd_server.training.places import Places
from batchd_server.training.records import Job, StepMetrics, Wanted
from batchd_server.training.store import TrainingStore

MODEL = '''
import ctypes
import time
import torch
from trainable_rig import Rows, Rowwise, Net, FEATURES, CLASSES
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec
from batchd_server.models.weights import replace_weights


class Served(Rowwise, PaddedModel):
    """Serves the rig's network; it can be slowed down, and be spoilt from a step on."""

    inputs = [TensorSpec(name="x", datatype="FP32", shape=("n", FEATURES))]
    outputs = [TensorSpec(name="y", datatype="FP32", shape=("n", CLASSES))]

    def __init__(self, pause_s=0.0, learn_s=0.0, nan_after=None, bytes_per_example=0, count=120, crash=False):
        self.pause_s, self.learn_s, self.nan_after = pause_s, learn_s, nan_after
        self.bytes_per_example, self.crash = bytes_per_example, crash
        self.seen = 0
        Rowwise.__init__(self, examples=Rows(count=count))

    def build(self):
        torch.manual_seed(1)
        return Net()

    def forward(self, batch):
        time.sleep(self.pause_s)
        return {"y": self.network(batch["x"])}

    def losses(self, network, batch):
        time.sleep(self.learn_s)
        if self.crash:
            ctypes.string_at(0)
        rows = len(batch[0])
        if self.bytes_per_example:
            torch.empty(rows, self.bytes_per_example, dtype=torch.uint8)
        losses = super().losses(network, batch)
        self.seen += torch.is_grad_enabled()
        if self.nan_after is not None and self.seen > self.nan_after:
            object.__setattr__(losses, "total", losses.total * float("nan"))
        return losses

    def adopt(self, weights):
        replace_weights(self.network, {name: tensor.float() for name, tensor in weights.items()})
'''


def training_settings(
    state: Path | None,
    *,
    slo_ms: float = 1000.0,
    memory_bytes: int | None = None,
    drain_timeout_s: float = 10.0,
    **options: Any,
) -> Settings:
    """Serve and train `Served` as "rows", on the CPU or on a simulated device of so much memory."""
    device = DeviceSettings(name="cpu", threads=1)
    if memory_bytes is not None:
        simulated = SimulatedDeviceSettings(memory_bytes=memory_bytes)
        device = DeviceSettings(
            name="simulated", threads=1, memory_fraction=1.0, memory_reserve_bytes=0, simulated=simulated
        )
    return Settings(
        server=ServerSettings(drain_timeout_s=drain_timeout_s),
        device=device,
        models={
            "rows": ModelSettings(
                entrypoint="served_rows:Served", options=options, batching=BatchingSettings(slo_ms=slo_ms)
            )
        },
        state=StateSettings(directory=state),
    )


class TrainingDevice(Device):
    """The process, a front, and the store. A second one on the same state directory goes on where this one ended."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        directory.mkdir(exist_ok=True)
        shutil.copy(Path(__file__).with_name("trainable_rig.py"), directory)
        (directory / "served_rows.py").write_text(MODEL)
        super().__init__(directory, settings)
        self.places = Places.of(settings, f"ipc://{directory}/link")
        self.places.directory.mkdir(parents=True, exist_ok=True)
        self.store = TrainingStore.open(self.places.database)

    def submit(self, **changes: Any) -> Job:
        """Queue a job and tell the process."""
        job = self.queue(**changes)
        self.front.control("training")
        return job

    def queue(self, **changes: Any) -> Job:
        """Queue a job of the rig's model, which the process finds by itself; `changes` are as in its JSON."""
        base: dict[str, Any] = {
            "model": "rows",
            "dataset": "digit-lines",  # the rig's model brings its own examples
            "max_steps": 20,
            "optimizer": {"name": "adamw", "lr": 0.05},
            "batching": {"initial": 24, "min": 8, "max": 64},
        }
        return self.store.create_job(JobSpec.model_validate(base | changes))

    def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait while the front's connection is served."""
        give_up = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up, f"not in time; the log:\n{self.log.read_text()[-3000:]}"
            try:
                self.process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the process has ended; the log:\n{self.log.read_text()[-3000:]}")

    def wish(self, job: Job, wanted: Wanted) -> None:
        """Ask for a job to run, pause or end, as a front does."""
        self.store.wish(job.id, wanted)
        self.front.control("training")

    def job(self, job: Job) -> Job:
        return self.store.job(job.id)

    def until_status(self, job: Job, status: JobStatus, timeout_s: float = 60.0) -> Job:
        self.until(lambda: self.job(job).status in {status, JobStatus.FAILED, JobStatus.SUCCEEDED}, timeout_s)
        found = self.job(job)
        assert found.status is status, found.reason
        return found

    def until_step(self, job: Job, step: int) -> None:
        self.until(lambda: self.job(job).progress.step >= step)

    def metrics(self, job: Job) -> list[StepMetrics]:
        return self.store.metrics(job.id, after_step=0, limit=100_000)

    def kinds(self, job: Job) -> list[str]:
        return [event.kind for event in self.store.events(job.id, after=0, limit=100_000)]

    def weights(self, job: Job) -> bytes:
        """The last checkpoint's, as they lie on the disk."""
        return (self.store.checkpoints(job.id)[-1].path / "model.safetensors").read_bytes()

    def ask(self, number: int, *, rows: int = 6) -> None:
        """Send one inference request."""
        frames: list[Any] = []
        x = np.full((rows, 4), number % 7, dtype=np.float32)
        item = OfferedItem((rows,), pack_tensors({"x": x}, frames))
        now = time.monotonic()
        offer = Offer(request=number, model="rows", items=(item,), arrived=now, deadline=now + 30.0, priority=0)
        self.front.say(offer, frames)

    def answer(self, number: int, *, rows: int = 6) -> Any:
        self.ask(number, rows=rows)
        self.front.until(lambda: (number, 0) in self.front.answers)
        return self.front.output(number)

    def close(self) -> None:
        self.store.close()
        super().close()
