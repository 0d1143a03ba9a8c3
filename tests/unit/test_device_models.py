"""Models in the device process: their states, who waits for them, and the item that warms them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from batchd.controller import Controller
from batchd.item import Shape
from batchd.policy import ModelPolicy
from batchd_server.device.answering import Answering
from batchd_server.device.failures import Failure, FailureKind
from batchd_server.device.learned_state import LearnedState
from batchd_server.device.model_lifecycle import ModelLifecycle
from batchd_server.device.repository import Caller, Repository
from batchd_server.device.serving import Serving
from batchd_server.device.warmup import example_items
from batchd_server.device.work import (
    Loaded,
    LoadFailed,
    PredictedPeak,
    ReleaseDone,
    ReleaseWork,
    WarmUpDone,
    WarmUpWork,
    Work,
)
from batchd_server.errors import NotFound, ServingError, Unavailable
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors, TensorSpec
from batchd_server.observe.arrival_trace import ArrivalTrace
from batchd_server.observe.instruments import Instruments
from batchd_server.observe.metrics import Metrics

CALLER = Caller(b"f", 1)


class Wide:
    """Takes images that are at least 20 wide."""

    inputs: Sequence[TensorSpec] = (TensorSpec(name="image", datatype="UINT8", shape=(8, "width")),)
    outputs = (TensorSpec(name="class", datatype="INT64", shape=()),)

    def preprocess(self, item: Tensors) -> Tensors:
        if item["image"].shape[1] < 20:
            raise ValueError("too narrow")
        return {"pixels": item["image"].astype(np.float32)}

    def shape(self, item: Tensors) -> Shape:
        return (item["pixels"].shape[1],)


class Rig:
    def __init__(self, directory: Path | None = None, *, second_at_start: bool = True) -> None:
        self.controller = Controller()
        self.asked: list[str] = []
        self.submitted: list[Work] = []
        self.replies: list[tuple[Caller, Any, ServingError | None]] = []
        self.repository = Repository([("a", True), ("b", second_at_start)])
        instruments = Instruments(Metrics(version="0", torch_version="0", device="test"), {})
        answering = Answering(lambda *_: True)
        self.lifecycle = ModelLifecycle(
            self.repository,
            self.controller,
            Serving(self.controller, answering, instruments, self.submitted.append, ArrivalTrace(None)),
            LearnedState(directory),
            circumstances={"a": {"device": "test"}, "b": {}},
            load=self.asked.append,
            submit=self.submitted.append,
            reply=lambda caller, result, error: self.replies.append((caller, result, error)),
        )

    def state(self, name: str) -> str:
        return self.repository[name].state

    def bring_up(self, name: str) -> None:
        self.lifecycle.loaded(loaded(name))
        work = self.submitted.pop()
        assert isinstance(work, WarmUpWork)
        self.lifecycle.warmed_up(WarmUpDone(work=work, failure=None))


def loaded(name: str, example: Mapping[str, Any] | None = None) -> Loaded:
    given = {"pixels": np.zeros((8, 30), np.float32)} if example is None else example
    return Loaded(
        name=name,
        model=cast("Model", Wide()),
        policy=ModelPolicy(),
        examples=(given,) if given else (),
        resident_bytes=10,
    )


def test_ready_only_after_a_forward_of_every_wanted_model() -> None:
    rig = Rig()
    rig.lifecycle.start()
    assert rig.asked == ["a", "b"]
    assert {rig.state("a"), rig.state("b")} == {"LOADING"}
    rig.bring_up("a")
    assert rig.state("a") == "READY"
    assert not rig.repository.ready
    rig.lifecycle.loaded(loaded("b"))
    (work,) = rig.submitted
    assert isinstance(work, WarmUpWork)
    assert [example.padded_shape for example in work.examples] == [(30,)]
    assert rig.state("b") == "LOADING", "weights alone do not make it ready"
    rig.lifecycle.warmed_up(WarmUpDone(work=work, failure=None))
    assert rig.repository.ready


@pytest.mark.parametrize("stage", ["load", "first run"])
def test_a_failure_names_its_reason_and_leaves_the_others_alone(stage: str) -> None:
    rig = Rig()
    rig.lifecycle.start()
    rig.bring_up("a")
    rig.lifecycle.load("b", CALLER)
    if stage == "load":
        rig.lifecycle.loaded(LoadFailed("b", "no weights"))
    else:
        rig.lifecycle.loaded(loaded("b"))
        work = cast("WarmUpWork", rig.submitted[-1])
        rig.lifecycle.warmed_up(WarmUpDone(work=work, failure=Failure(FailureKind.MODEL, "no weights")))
    assert rig.state("a") == "READY"
    assert rig.state("b") == "UNAVAILABLE"
    assert "no weights" in rig.repository["b"].reason
    assert not rig.repository.ready
    ((caller, _, error),) = rig.replies
    assert caller == CALLER
    assert error is not None
    assert error.code == "load_failed"


def test_a_model_without_an_example_serves_without_a_warm_up(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.lifecycle.start()
    rig.lifecycle.loaded(loaded("a", example={}))
    assert rig.state("a") == "READY"
    assert "example(size)" in caplog.text


def test_unload_answers_after_the_memory_is_back_and_the_server_stays_ready() -> None:
    rig = Rig()
    rig.lifecycle.start()
    rig.bring_up("a")
    rig.bring_up("b")
    rig.lifecycle.unload("b", CALLER, now=0.0)
    assert rig.state("b") == "UNLOADING"
    assert rig.submitted == [ReleaseWork(name="b")]
    assert rig.replies == []
    with pytest.raises(Unavailable):
        rig.lifecycle.load("b", CALLER)
    rig.repository["b"].wanted = False
    rig.lifecycle.released(ReleaseDone(name="b"))
    assert rig.state("b") == "UNAVAILABLE"
    assert [result["state"] for _, result, _ in rig.replies] == ["UNAVAILABLE"]
    assert rig.repository.ready, "the operator does not want this model any more"


def test_loading_what_is_ready_and_unloading_what_is_not_are_answered_at_once() -> None:
    rig = Rig(second_at_start=False)
    rig.lifecycle.start()
    assert rig.asked == ["a"]
    rig.bring_up("a")
    assert rig.repository.ready
    rig.lifecycle.load("a", CALLER)
    rig.lifecycle.unload("b", CALLER, now=0.0)
    assert [result["state"] for _, result, _ in rig.replies] == ["READY", "UNAVAILABLE"]
    with pytest.raises(NotFound):
        rig.lifecycle.load("c", CALLER)
    with pytest.raises(NotFound):
        rig.lifecycle.unload("c", CALLER, now=0.0)


def test_what_was_learned_is_taken_up_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.lifecycle.start()
    rig.bring_up("a")
    rig.lifecycle.save()
    saved = (tmp_path / "cost-models" / "a.json").read_text()
    again = Rig(tmp_path)
    again.lifecycle.start()
    again.bring_up("a")
    again.lifecycle.save()
    assert (tmp_path / "cost-models" / "a.json").read_text() == saved
    (tmp_path / "cost-models" / "a.json").write_text(
        '{"format": 1, "circumstances": {"device": "test"}, "state": {"latency": 1}}'
    )
    broken = Rig(tmp_path)
    broken.lifecycle.start()
    broken.bring_up("a")
    assert broken.state("a") == "READY"


def test_what_is_known_of_a_model_spares_its_successor_the_timing_and_the_predictions(tmp_path: Path) -> None:
    peak = PredictedPeak(batch_size=1, shape=(30,), peak_bytes=4096)
    rig = Rig(tmp_path)
    rig.lifecycle.start()
    rig.lifecycle.loaded(loaded("a"))
    first = cast("WarmUpWork", rig.submitted.pop())
    assert not first.known
    rig.lifecycle.warmed_up(WarmUpDone(work=first, failure=None, predicted=(peak,)))
    # it died at once: nothing but the opening had saved it
    successor = Rig(tmp_path)
    successor.lifecycle.start()
    successor.lifecycle.loaded(loaded("a"))
    second = cast("WarmUpWork", successor.submitted.pop())
    assert second.known
    assert len(second.layouts) == 1
    successor.lifecycle.warmed_up(WarmUpDone(work=second, failure=None))
    assert successor.state("a") == "READY"
    assert successor.repository["a"].predicted == (peak,)
    # under other limits the predictions say nothing
    other = Rig(tmp_path)
    other.lifecycle.start()
    other.lifecycle.loaded(replace(loaded("a"), policy=ModelPolicy(max_batch_size=7)))
    assert not cast("WarmUpWork", other.submitted.pop()).known


def test_a_state_that_does_not_fit_is_learned_again_from_a_whole_warm_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.lifecycle.start()
    rig.bring_up("a")
    path = tmp_path / "cost-models" / "a.json"
    path.write_text(path.read_text().replace('"efficiency": ', '"efficiency": -'))
    successor = Rig(tmp_path)
    successor.lifecycle.start()
    successor.lifecycle.loaded(loaded("a"))
    hopeful = cast("WarmUpWork", successor.submitted.pop())
    assert hopeful.known
    successor.lifecycle.warmed_up(WarmUpDone(work=hopeful, failure=None))
    assert successor.state("a") == "LOADING"
    whole = cast("WarmUpWork", successor.submitted.pop())
    assert not whole.known
    successor.lifecycle.warmed_up(WarmUpDone(work=whole, failure=None))
    assert successor.state("a") == "READY"


def test_an_example_grows_until_the_model_takes_it() -> None:
    items = example_items(cast("Model", Wide()))
    assert [item["pixels"].shape for item in items] == [(8, 32), (8, 128), (8, 256)], "and then come larger ones"


def test_a_model_that_takes_nothing_has_no_example() -> None:
    class Picky(Wide):
        def preprocess(self, item: Tensors) -> Tensors:
            raise ValueError("never")

    assert example_items(cast("Model", Picky())) == ()


def test_alternatives_are_tried_one_by_one_and_text_is_text() -> None:
    class Text(Wide):
        inputs = (
            TensorSpec(name="text", datatype="BYTES", shape=(), optional=True),
            TensorSpec(name="ids", datatype="INT64", shape=("tokens",), optional=True, max_size=4),
        )

        def preprocess(self, item: Tensors) -> Tensors:
            if set(item) == {"ids"}:
                return item
            raise ValueError(f"got {item['text'].item()!r}")

        def shape(self, item: Tensors) -> Shape:
            return item["ids"].shape

    (item,) = example_items(cast("Model", Text()))
    assert item["ids"].shape == (4,), "the limit of the input is kept, and no size is tried twice"


def test_a_model_may_bring_its_own_example() -> None:
    class Own(Wide):
        def example(self, size: int) -> Tensors:
            return {"pixels": np.zeros((8, size), np.float32)}

    small, *_ = example_items(cast("Model", Own()))
    assert small["pixels"].shape == (8, 8)
