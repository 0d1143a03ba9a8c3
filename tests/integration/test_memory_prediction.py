"""Predicted against measured peaks: shipped models, models that cannot be followed, and the way into decisions."""

from __future__ import annotations

import copy
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_process_rig import Device, Front, settings_with
from simulated_rig import hungry_device, hungry_settings

from batchd.memory_model import MemoryModelConfig
from batchd.policy import ModelPolicy
from batchd_server.device.memory.cpu import LedgerPeaks
from batchd_server.device.memory.host import HostProbe
from batchd_server.device.memory.prediction import PeakPredictor, predict_peaks
from batchd_server.device.warmup import MAX_PLANNED_BYTES, planned_batches
from batchd_server.device.work import PlannedBatch
from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.exported import ExportedModel
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors, TensorSpec

CPU = torch.device("cpu")
FAR_S = 60.0
BATCH_SIZES = (1, 5, 16)


class Mixer(torch.nn.Module):
    """Enough of a network that peaks are not those of one op: attention over the steps, masked, and a wide layer."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = torch.nn.Linear(4, 16)
        self.wide = torch.nn.Linear(16, 128)
        self.leave = torch.nn.Linear(128, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.enter(x)
        weights = (h @ h.transpose(1, 2)).masked_fill(~mask.unsqueeze(1), -1e9).softmax(dim=-1)
        return self.leave(torch.nn.functional.gelu(self.wide(weights @ h)))


class Net(PaddedModel):
    """One input and one output of the same shape; `forward` is given."""

    inputs: Sequence[TensorSpec] = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs: Sequence[TensorSpec] = (TensorSpec(name="y", datatype="FP32", shape=("n",)),)

    def build(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))

    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        return {"y": self.network(batch["x"].reshape(-1, 1)).reshape(batch["x"].shape)}


def loaded(model: Any) -> Any:
    with torch.no_grad():
        model.load(CPU)
    return model


def measured(model: Model, batch: PlannedBatch) -> int:
    """What the executor's meter says."""
    with torch.no_grad(), LedgerPeaks(HostProbe(), sample_every=1).measure(("m", 1, ())) as measurement:
        collated = model.collate(batch.items, batch.padded_shape)
        measurement.adopt(collated)
        outputs = model.run(collated)
        answers = model.split(outputs, batch.items)
    assert len(answers) == len(batch.items)
    assert measurement.peak_bytes is not None
    return measurement.peak_bytes


def assert_predicted(model: Model, item: Any, lengths: Sequence[int]) -> None:
    predictor = PeakPredictor(model, CPU)
    for length in lengths:
        for batch_size in BATCH_SIZES:
            items = (item(lengths[0]), *(item(length) for _ in range(batch_size - 1)))
            batch = PlannedBatch(items, (length,))
            predicted = predictor.peak_bytes(batch, time.monotonic() + FAR_S)
            assert predicted == pytest.approx(measured(model, batch), rel=0.01), (batch_size, length)
    full = PlannedBatch((item(lengths[-1]),) * 3, (lengths[-1],))  # without padding there is no mask
    assert predictor.peak_bytes(full, time.monotonic() + FAR_S) == pytest.approx(measured(model, full), rel=0.01)


def test_digit_lines_are_predicted_within_one_percent() -> None:
    assert_predicted(loaded(DigitLines()), lambda width: {"image": np.zeros((8, width), np.float32)}, (8, 64, 256))


@pytest.mark.text
def test_the_text_encoder_is_predicted_within_one_percent() -> None:
    pytest.importorskip("transformers")
    from batchd_server.models.text_encoder import TextEncoder

    model = loaded(TextEncoder())
    assert_predicted(model, model.example, (4, 37, 256))


def test_an_exported_program_is_predicted_within_one_percent(tmp_path: Path) -> None:
    path = tmp_path / "mixer.pt2"
    dims = {0: torch.export.Dim("items", min=1, max=256), 1: torch.export.Dim("steps", min=1, max=512)}
    example = (torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool))
    torch.export.save(torch.export.export(Mixer().eval(), example, dynamic_shapes=(dims, dims)), path)
    model = ExportedModel(
        path=str(path),
        inputs=[{"name": "x", "datatype": "FP32", "shape": ["steps", 4]}],
        outputs=[{"name": "y", "datatype": "FP32", "shape": ["steps", 3]}],
        mask_input="mask",
    )
    assert_predicted(loaded(model), lambda steps: {"x": np.zeros((steps, 4), np.float32)}, (3, 50, 200))


def test_what_collation_takes_counts_too() -> None:
    class Eager(Net):
        def collate(self, items: Sequence[Tensors], padded_shape: tuple[int, ...]) -> PaddedBatch:
            batch = super().collate(items, padded_shape)
            assert torch.ones(len(items), 10_000).sum() > 0
            return batch

    assert_predicted(loaded(Eager()), lambda n: {"x": np.zeros(n, np.float32)}, (3, 50))


def test_a_prediction_leaves_no_trace_in_the_model() -> None:
    class Caching(Net):
        cache: dict[int, torch.Tensor]

        def build(self) -> torch.nn.Module:
            self.cache = {}
            self.runs = 0
            return super().build()

        def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
            self.runs += 1
            (length,) = batch.padded_shape
            self.cache.setdefault(length, torch.arange(length))
            self.network.position = self.cache[length]
            return super().forward(batch)

    model = loaded(Caching())
    weights = copy.deepcopy(model.network.state_dict())
    rng = torch.get_rng_state()
    item: Tensors = {"x": np.ones(9, np.float32)}
    PeakPredictor(model, CPU).peak_bytes(PlannedBatch((item, item), (9,)), time.monotonic() + FAR_S)
    assert model.runs == 0
    assert model.cache == {}
    assert not hasattr(model.network, "position")
    assert torch.equal(torch.get_rng_state(), rng)
    for name, tensor in model.network.state_dict().items():
        assert type(tensor) is torch.Tensor
        assert torch.equal(tensor, weights[name])
    assert measured(model, PlannedBatch((item,), (9,))) > 0, "and it still runs"


class DependsOnData(Net):
    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        return super().forward(batch) if float(batch["x"].sum()) >= 0 else {}


class WantsOut(Net):
    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        raise SystemExit("not on fakes")


class HoldsALock(Net):
    def build(self) -> torch.nn.Module:
        self.lock = threading.Lock()
        return super().build()


class Scripted(Net):
    def build(self) -> torch.nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted: torch.nn.Module = torch.jit.script(super().build())  # type: ignore[no-untyped-call]
        return scripted


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (DependsOnData(), "DataDependentOutputException"),
        (WantsOut(), "SystemExit: not on fakes"),
        (HoldsALock(), "it cannot be copied onto fake tensors: TypeError"),
        (Scripted(), "TorchScript"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Net) else "",
)
def test_a_model_that_cannot_be_followed_is_left_alone_with_one_line(
    model: Net, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    loaded(model)
    batches = planned_batches(model, ModelPolicy())
    with caplog.at_level(logging.INFO):
        assert predict_peaks("net", model, CPU, batches, FAR_S) == ()
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("model net: no memory prediction, ")
    assert reason in line


def test_a_prediction_that_takes_too_long_ends_within_its_bound(caplog: pytest.LogCaptureFixture) -> None:
    class Endless(Net):
        def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
            x = batch["x"]
            while True:
                x = x + 1

    model = loaded(Endless())
    begun = time.monotonic()
    with caplog.at_level(logging.INFO):
        assert predict_peaks("net", model, CPU, planned_batches(model, ModelPolicy()), 0.2) == ()
    assert time.monotonic() - begun < 30
    (line,) = (record.getMessage() for record in caplog.records)
    assert "takes longer than 0.2 s" in line


def test_plans_hold_the_smallest_and_the_largest_batch_of_every_size_within_the_limits() -> None:
    policy = ModelPolicy(max_batch_size=40, max_batch_elements=10_000, max_item_elements=600)
    model = loaded(Net())
    plans = planned_batches(model, policy)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for plan in plans:
        by_shape.setdefault(plan.padded_shape, []).append(len(plan.items))
        assert model.shape(plan.items[0]) == (8,), "something is padded"
        assert sum(array.nbytes for item in plan.items for array in item.values()) <= MAX_PLANNED_BYTES
    assert by_shape == {
        (16,): [1, 40, 6],
        (64,): [1, 40, 6],
        (256,): [1, 39, 6],
        (512,): [1, 19, 4],
        (128,): [1, 40, 6],
    }


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """A simulated device, and one model that takes 64 KiB per padded element."""
    device = hungry_device(tmp_path / "device", hungry_settings(memory_mib=512, cost=None))
    device.front.until(device.front.ready)
    yield device.front
    device.close()


@pytest.mark.parametrize(("length", "bound"), [(64, 64), (40, 64)])
def test_the_very_first_batches_fill_the_memory_and_none_is_too_large(front: Front, length: int, bound: int) -> None:
    """A length that was not foreseen is bounded by the next larger one that was, until it has run."""
    budget = front.control("status").result["budget"]["budget_bytes"]
    item = np.ones(length)
    num_items = 400  # of 64 KiB x length each: at least twice the budget
    front.offer(0, *[item] * num_items, model="hungry")
    front.until(lambda: len(front.answers) == num_items)
    assert all(answer.error is None for answer, _ in front.answers.values())

    first, *others = reversed(front.control("decisions", limit=100).result)
    assert {batch["outcome"] for batch in (first, *others)} == {"completed"}
    assert first["batch_size"] > MemoryModelConfig().first_batch
    foreseen = 1.15 * first["peak_bytes"] * bound / length
    assert first["predicted_bytes"] == pytest.approx(foreseen, rel=0.01)
    assert 0.95 * budget <= foreseen <= budget, "as large as the guess allows"


def test_a_model_that_cannot_be_followed_serves_and_the_log_says_why(tmp_path: Path) -> None:
    device = Device(tmp_path / "device", settings_with(double={"poison": 7.0}))  # it asks for the values
    try:
        device.front.until(device.front.ready)
        device.front.offer(1, [1.0, 2.0])
        device.front.until(lambda: (1, 0) in device.front.answers)
        np.testing.assert_array_equal(device.front.output(1), [2.0, 4.0])
        assert device.log.read_text().count("model double: no memory prediction, it cannot run on fake tensors") == 1
    finally:
        device.close()
