"""A front without a device process: small numpy models that really run, inline, and ways to call the application."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI

from batchd.item import Shape
from batchd_server.config.settings import ModelSettings, ServerSettings, Settings
from batchd_server.errors import NotFound, ServingError
from batchd_server.front.app import create_app
from batchd_server.front.dispatcher import DeviceState, InferenceAnswer, InferenceRequest, ItemTiming
from batchd_server.link.messages import ModelState
from batchd_server.models.protocol import Model
from batchd_server.models.spec import NUMPY_DTYPES, Tensors, TensorSpec


class NumpyModel:
    """Runs item by item; subclasses state the specs and `answer`."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def answer(self, item: Tensors) -> Tensors:
        raise NotImplementedError

    def preprocess(self, item: Tensors) -> Tensors:
        return item

    def shape(self, item: Tensors) -> Shape:
        return next(iter(item.values())).shape

    def load(self, device: Any) -> None:
        """There are no weights."""

    def collate(self, items: Sequence[Tensors], padded_shape: Shape) -> Any:
        return items

    def run(self, batch: Any) -> Any:
        return [self.answer(item) for item in batch]

    def split(self, outputs: Any, items: Sequence[Tensors]) -> Sequence[Tensors]:
        answers: Sequence[Tensors] = outputs
        return answers


class Scale(NumpyModel):
    """y = 2 x and its sum; refuses NaN, and items that begin with a negative number."""

    inputs: Sequence[TensorSpec] = (TensorSpec(name="x", datatype="FP32", shape=("n",), finite=True, max_size=100_000),)
    outputs: Sequence[TensorSpec] = (
        TensorSpec(name="y", datatype="FP32", shape=("n",)),
        TensorSpec(name="total", datatype="FP64", shape=()),
    )

    def preprocess(self, item: Tensors) -> Tensors:
        if item["x"][0] < 0:
            raise ValueError("x must not begin with a negative number")
        return item

    def answer(self, item: Tensors) -> Tensors:
        x = item["x"].astype(np.float32)
        with np.errstate(over="ignore"):
            doubled = x * np.float32(2)
        return {"y": doubled, "total": np.asarray(x.sum(dtype=np.float64))}


class Identity(NumpyModel):
    """y = x, for one datatype and any size."""

    def __init__(self, datatype: str) -> None:
        self.inputs = (TensorSpec(name="x", datatype=datatype, shape=("n",)),)
        self.outputs = (TensorSpec(name="y", datatype=datatype, shape=("n",)),)

    def answer(self, item: Tensors) -> Tensors:
        return {"y": item["x"]}


class Concatenate(NumpyModel):
    """Two inputs of two datatypes, one of them optional."""

    inputs: Sequence[TensorSpec] = (
        TensorSpec(name="a", datatype="INT64", shape=(2,)),
        TensorSpec(name="b", datatype="BYTES", shape=(), optional=True),
    )
    outputs: Sequence[TensorSpec] = (TensorSpec(name="text", datatype="BYTES", shape=()),)

    def answer(self, item: Tensors) -> Tensors:
        text = np.empty((), dtype=object)
        text[()] = b"%d,%d" % tuple(item["a"].tolist()) + (item["b"].item() if "b" in item else b"")
        return {"text": text}


class Embedder(NumpyModel):
    """Unit vectors of 4 dimensions, made of a hash of the tokens; a token of a text is one of its bytes."""

    embedding_input = "text"
    token_input = "tokens"
    embedding_output = "embedding"
    inputs: Sequence[TensorSpec] = (
        TensorSpec(name="text", datatype="BYTES", shape=(), optional=True),
        TensorSpec(name="tokens", datatype="INT64", shape=("tokens",), optional=True),
    )
    outputs: Sequence[TensorSpec] = (TensorSpec(name="embedding", datatype="FP32", shape=(4,)),)

    def preprocess(self, item: Tensors) -> Tensors:
        if "tokens" in item:
            if item["tokens"].max() > 255:
                raise ValueError("token ids must be below 256")
            return item
        return {"tokens": np.frombuffer(item["text"].item(), dtype=np.uint8).astype(np.int64)}

    def num_tokens(self, item: Tensors) -> int:
        return len(item["tokens"])

    def answer(self, item: Tensors) -> Tensors:
        digest = hashlib.sha256(item["tokens"].tobytes()).digest()
        vector = np.frombuffer(digest[:16], dtype=np.uint32).astype(np.float32)
        return {"embedding": vector / np.linalg.norm(vector)}


MODELS: dict[str, Model] = {
    "scale": Scale(),
    "concatenate": Concatenate(),
    "embedder": Embedder(),
    **{f"identity-{datatype.lower()}": Identity(datatype) for datatype in NUMPY_DTYPES},
}


@dataclass
class InlineDispatcher:
    """Runs the models in the calling task. `refusal` is raised instead; `held` keeps requests until it is set."""

    models: Mapping[str, Model] = field(default_factory=lambda: dict(MODELS))
    refusal: Exception | None = None
    held: asyncio.Event | None = None
    ready: bool = True
    draining: bool = False
    unloaded: set[str] = field(default_factory=set)
    requests: list[InferenceRequest] = field(default_factory=list)
    cancelled: int = 0
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    seen: threading.Event = field(default_factory=threading.Event)  # as `entered`, for other threads
    abandoned: threading.Event = field(default_factory=threading.Event)

    def model(self, name: str) -> Model:
        try:
            return self.models[name]
        except KeyError:
            raise NotFound(f"unknown model {name!r}", field="model") from None

    def state(self) -> DeviceState:
        models = tuple(
            ModelState(name=name, state="UNAVAILABLE" if name in self.unloaded else "READY", reason="", slo_s=1.0)
            for name in self.models
        )
        return DeviceState(
            connected=True, ready=self.ready, draining=self.draining, closing=self.draining, pid=1, models=models
        )

    def standing(self) -> None:
        return None

    def num_pending(self) -> int:
        return 0 if self.held is None else len(self.requests)

    async def infer(self, request: InferenceRequest) -> InferenceAnswer:
        self.requests.append(request)
        self.entered.set()
        self.seen.set()
        if self.refusal is not None:
            raise self.refusal
        if self.held is not None:
            try:
                await self.held.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                self.abandoned.set()
                raise
        model = self.models[request.model]
        items = request.items
        outputs = model.split(model.run(model.collate(items, ())), items)
        timings = [ItemTiming(batch_size=len(items), queue_s=0.001 * i, compute_s=0.002) for i in range(len(items))]
        return InferenceAnswer(outputs=outputs, timings=timings)

    async def control(self, action: str, **arguments: Any) -> Any:
        if self.refusal is not None:
            raise self.refusal
        match action:
            case "load":
                self.unloaded.discard(arguments["model"])
            case "unload":
                self.unloaded.add(arguments["model"])
            case "statistics":
                wanted = arguments["model"]
                return {"model_stats": [{"name": name} for name in self.models if wanted in {None, name}]}
            case "metrics":
                return "# TYPE batchd_requests_total counter\n"
            case "status":
                return {"device": {"pid": 1, "name": "cpu", "kind": "cpu"}, "fronts": [{"pid": 1}], "queue": {}}
            case _:
                raise ServingError(f"no such action: {action}")
        return None


@dataclass
class Rows:
    """An observer that keeps what it is told."""

    rows: list[tuple[str, str, str, float, float]] = field(default_factory=list)

    def observe(self, model: str, api: str, outcome: str, duration_s: float, overhead_s: float) -> None:
        self.rows.append((model, api, outcome, duration_s, overhead_s))


def settings_for(dispatcher: InlineDispatcher, **server: Any) -> Settings:
    return Settings(
        server=ServerSettings(**server),
        models={name: ModelSettings(entrypoint="front_rig:Scale", version="3") for name in dispatcher.models},
    )


@dataclass
class Rig:
    """One application, with what stands around it."""

    app: FastAPI
    client: httpx.AsyncClient
    dispatcher: InlineDispatcher
    observed: Rows


@asynccontextmanager
async def rig(dispatcher: InlineDispatcher | None = None, **server: Any) -> AsyncIterator[Rig]:
    """An application called in this process, without a socket."""
    dispatcher = dispatcher or InlineDispatcher()
    observed = Rows()
    app = create_app(settings_for(dispatcher, **server), dispatcher, observer=observed)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
        yield Rig(app, client, dispatcher, observed)


@contextmanager
def serving(dispatcher: InlineDispatcher | None = None, **server: Any) -> Iterator[str]:
    """A real HTTP server on a free port of this machine, in a thread; gives `host:port`."""
    dispatcher = dispatcher or InlineDispatcher()
    app = create_app(settings_for(dispatcher, **server), dispatcher)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    listener = config.bind_socket()
    listener.listen()  # from here on connections wait, until the thread takes them
    http_server = uvicorn.Server(config)
    thread = threading.Thread(target=http_server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        http_server.should_exit = True
        thread.join(timeout=30)
        listener.close()
        assert not thread.is_alive()


def binary_body(
    document: dict[str, Any], *blobs: bytes, header_length: int | None = None
) -> tuple[bytes, dict[str, str]]:
    """Join a JSON header and binary tensors; gives the body and its headers."""
    head = json.dumps(document).encode()
    length = len(head) if header_length is None else header_length
    return head + b"".join(blobs), {"Inference-Header-Content-Length": str(length)}


def input_tensor(name: str, datatype: str, shape: Sequence[int], **rest: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), **rest}
