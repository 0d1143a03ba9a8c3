"""A tiny trainable model: rows of varying length, their masked mean through a small network. Everything in double."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from batchd.item import Shape
from batchd.schedules import Task
from batchd_server.device.training.trainer import Trainer, TrainReport
from batchd_server.models.trainable import DatasetFiles, ExampleSet, Losses
from batchd_server.training.job_spec import JobSpec

CPU = torch.device("cpu")
FEATURES, CLASSES = 4, 3


@dataclass(frozen=True)
class Rows:
    """Implements `ExampleSet`: (length, FEATURES) each, a label for every row of it."""

    count: int = 120
    longest: int = 12

    def __post_init__(self) -> None:
        rng = np.random.default_rng(5)
        lengths = rng.integers(1, self.longest, size=self.count, endpoint=True)
        data = [rng.normal(size=(length, FEATURES)) for length in lengths]
        labels = [each @ np.arange(1.0, FEATURES + 1) for each in data]
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "labels", [np.digitize(each, [-2.0, 2.0]) for each in labels])

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.array([len(each) for each in self.data], dtype=np.int64)  # type: ignore[attr-defined]

    @property
    def terms(self) -> npt.NDArray[np.float64]:
        return self.sizes.astype(np.float64)

    @property
    def validation(self) -> npt.NDArray[np.int64] | None:
        return None

    def batch(self, indices: Sequence[int], padded_shape: Shape, device: torch.device) -> Any:
        x = np.zeros((len(indices), padded_shape[0], FEATURES))
        y = np.full((len(indices), padded_shape[0]), -1)
        for row, index in enumerate(indices):
            data, labels = self.data[index], self.labels[index]  # type: ignore[attr-defined]
            x[row, : len(data)], y[row, : len(data)] = data, labels
        return torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)


class Net(torch.nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(FEATURES, 16)
        self.dropout = torch.nn.Dropout(dropout)
        self.outer = torch.nn.Linear(16, CLASSES)
        self.idle = torch.nn.Parameter(torch.ones(2))  # no loss reaches it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.dropout(torch.tanh(self.inner(x))))


class Rowwise:
    """Implements `Trainable`. `spoil` may change the loss of a microbatch, or raise."""

    def __init__(
        self,
        dropout: float = 0.0,
        spoil: Callable[[torch.Tensor], torch.Tensor] = lambda loss: loss,
        examples: ExampleSet | None = None,
    ) -> None:
        self._dropout, self._spoil = dropout, spoil
        self._examples = examples or Rows()

    @property
    def task(self) -> Task:
        return Task(kind="classification", num_classes=CLASSES)

    def new_network(self, *, fresh: bool) -> torch.nn.Module:
        return Net(self._dropout).double()

    def examples(self, dataset: DatasetFiles) -> ExampleSet:
        return self._examples

    def losses(self, network: torch.nn.Module, batch: Any) -> Losses:
        x, y = batch
        scores = functional.log_softmax(network(x), dim=-1)
        loss = functional.nll_loss(scores.flatten(0, 1), y.flatten(), ignore_index=-1, reduction="sum")
        correct = int((scores.argmax(-1) == y).sum())
        return Losses(total=self._spoil(loss), terms=float((y >= 0).sum()), correct=correct, entropy=None)

    def adopt(self, weights: Any) -> None:
        raise AssertionError("nothing is served here")


def spec(**changes: Any) -> JobSpec:
    """A short job; `changes` are as in a job's JSON."""
    base: dict[str, Any] = {
        "model": "rows",
        "dataset": "rows",
        "max_steps": 12,
        "optimizer": {"name": "adamw", "lr": 0.05},
        "batching": {"initial": 24, "min": 8, "max": 64},
        "seed": 3,
    }
    return JobSpec.model_validate(base | changes)


def trainer(job: JobSpec, model: Rowwise | None = None) -> Trainer:
    model = model or Rowwise()
    torch.manual_seed(job.seed)
    network = model.new_network(fresh=True)
    return Trainer(job, model, network, model.examples(DatasetFiles(name="", format="", path=None)), CPU)


class Driver:
    """Plays the executor: lends the device for as many units as `units` says, and keeps what was reported."""

    def __init__(self, training: Trainer, units: Callable[[int], int] = lambda wanted: wanted) -> None:
        self.trainer, self._units = training, units
        self.reports: list[TrainReport] = []

    def turn(self) -> bool:
        """Run one quantum; False where the job is over."""
        report = self.trainer.report()
        self.reports.append(report)
        if report.demand is None:
            return False
        units = min(report.demand.items, max(1, self._units(report.demand.items)))
        try:
            self.trainer.run(report.demand.quantum, units)
        except torch.OutOfMemoryError:
            self.trainer.out_of_memory(report.demand.quantum, units, headroom=None)
        return True

    def run(self) -> Driver:
        while self.turn():
            pass
        return self

    def losses(self) -> list[float]:
        return [step.loss or 0.0 for report in self.reports for step in report.steps]

    def weights(self) -> dict[str, torch.Tensor]:
        snapshots = [report.snapshot for report in self.reports if report.snapshot is not None]
        return dict(snapshots[-1].weights)


PLANS: dict[str, Callable[[int], int]] = {
    "all at once": lambda wanted: wanted,
    "one by one": lambda wanted: 1,
    "threes": lambda wanted: 3,
    "halves": lambda wanted: (wanted + 1) // 2,
}


def run(job: JobSpec, units: Callable[[int], int] = PLANS["all at once"], model: Rowwise | None = None) -> Driver:
    training = trainer(job, model)
    training.start()
    return Driver(training, units).run()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=tolerance, atol=tolerance, msg=name)


def assert_identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Watched(Rows):
    """Remembers which examples were asked for."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "asked", [])

    def batch(self, indices: Any, padded_shape: Any, device: torch.device) -> Any:
        if torch.is_grad_enabled():
            self.asked.append(tuple(indices))  # type: ignore[attr-defined]
        return super().batch(indices, padded_shape, device)
