"""A real device process and one front that is connected to it, with real torch models to serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from batchd_server.bootstrap import Bootstrap
from batchd_server.config.settings import BatchingSettings, ModelSettings, ServerSettings, Settings, StateSettings
from batchd_server.link.codec import decode_device_message, encode, pack_tensors, unpack_tensors
from batchd_server.link.messages import (
    Announce,
    Answers,
    Control,
    ControlReply,
    DeviceMessage,
    FrontMessage,
    Hello,
    ItemAnswer,
    Offer,
    OfferedItem,
)
from batchd_server.models.spec import Tensors

MODELS = """
import time
import torch
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Doubler(PaddedModel):
    # with sleeper, -N takes N seconds
    inputs = [TensorSpec(name="x", datatype="FP32", shape=("n",))]
    outputs = [TensorSpec(name="y", datatype="FP32", shape=("n",))]

    def __init__(self, pause_s=0.0, poison=None, limit=None, broken=False, load_s=0.0, sleeper=False):
        self.pause_s, self.poison, self.limit, self.broken, self.load_s = pause_s, poison, limit, broken, load_s
        self.sleeper = sleeper

    def build(self):
        time.sleep(self.load_s)
        if self.broken:
            raise RuntimeError("weights are missing under /var/lib/models/secret")
        return torch.nn.Identity()

    def forward(self, batch):
        x = batch["x"]
        time.sleep(self.pause_s)
        if self.sleeper:
            time.sleep(float((-x).clamp(min=0).max()))
        if self.limit is not None and x.numel() > self.limit:
            raise torch.OutOfMemoryError(f"{x.numel()} elements")
        if self.poison is not None and (x == self.poison).any():
            raise ValueError("poisoned at /etc/shadow/of/a/path")
        return {"y": self.network(x) * 2}
"""


class Front:
    """A front process's end, in a test's thread."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, b"front-test")
        self._socket.connect(address)
        self.answers: dict[tuple[int, int], tuple[ItemAnswer, Tensors]] = {}
        self.announced: list[Announce] = []
        self.replies: dict[int, ControlReply] = {}
        self._calls = 0

    def say(self, message: FrontMessage, frames: Any = ()) -> None:
        self._socket.send_multipart(encode(message, frames))

    def offer(self, number: int, *items: Any, model: str = "double", deadline_s: float | None = 60.0) -> None:
        frames: list[Any] = []
        arrays = [np.asarray(item, dtype=np.float32) for item in items]
        now = time.monotonic()
        self.say(
            Offer(
                request=number,
                model=model,
                items=tuple(OfferedItem(array.shape, pack_tensors({"x": array}, frames)) for array in arrays),
                arrived=now,
                deadline=None if deadline_s is None else now + deadline_s,
                priority=0,
            ),
            frames,
        )

    def control(self, action: Any, **arguments: Any) -> ControlReply:
        self._calls += 1
        call = self._calls
        self.say(Control(call=call, action=action, arguments=arguments))
        self.until(lambda: call in self.replies)
        return self.replies[call]

    def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        give_up = time.monotonic() + timeout_s
        while not condition():
            remaining = give_up - time.monotonic()
            assert remaining > 0, "the device process did not do it in time"
            if self._socket.poll(int(remaining * 1000) + 1):
                parts = self._socket.recv_multipart()
                self._hear(decode_device_message(parts[0]), parts[1:])

    def _hear(self, message: DeviceMessage, frames: list[bytes]) -> None:
        match message:
            case Announce():
                self.announced.append(message)
            case Answers(answers=answers):
                for answer in answers:
                    key = (answer.request, answer.index)
                    assert key not in self.answers, "an item was answered twice"
                    self.answers[key] = (answer, unpack_tensors(answer.tensors, frames))
            case ControlReply():
                self.replies[message.call] = message

    def occupy(self, number: int, seconds: float) -> None:
        """Offer one item that takes a sleeper that long, and return once it is on the device."""
        self.offer(number, [-seconds])
        while self.control("status").result["queue"]["running_batch"] is None:
            if self.answers.pop((number, 0), None) is not None:  # it was over before anybody looked
                self.offer(number, [-seconds])

    @property
    def state(self) -> Announce | None:
        return self.announced[-1] if self.announced else None

    def states(self) -> dict[str, str]:
        return {} if self.state is None else {model.name: model.state for model in self.state.models}

    def ready(self) -> bool:
        return self.state is not None and self.state.ready

    def output(self, request: int, index: int = 0) -> Any:
        answer, tensors = self.answers[request, index]
        assert answer.error is None, answer.error
        return tensors["y"]

    def error(self, request: int, index: int = 0) -> tuple[int, str, str, float | None]:
        error = self.answers[request, index][0].error
        assert error is not None
        return error

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()


def settings_with(
    state: Path | None = None, drain_timeout_s: float = 10.0, slo_ms: float = 1000.0, **options: dict[str, Any]
) -> Settings:
    batching = BatchingSettings(slo_ms=slo_ms)
    return Settings(
        server=ServerSettings(drain_timeout_s=drain_timeout_s),
        models={
            name: ModelSettings(entrypoint="toy_models:Doubler", options=chosen, batching=batching)
            for name, chosen in options.items()
        },
        state=StateSettings(directory=state),
    )


class Device:
    """A running device process and one front that is connected to it."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "toy_models.py").write_text(MODELS)
        bootstrap = Bootstrap(settings=settings, link_address=f"ipc://{directory}/link")
        bootstrap.write(directory / "bootstrap.json")
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "batchd_server.device.process", "--bootstrap", "bootstrap.json"],
                cwd=directory,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                stderr=log,
            )
        self.front = Front(bootstrap.link_address)
        self.front.say(Hello(pid=os.getpid()))

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self) -> None:
        self.front.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
