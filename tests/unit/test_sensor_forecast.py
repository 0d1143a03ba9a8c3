"""The example of a regression that is trained on a table that somebody brings."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from batchd.sampler import plan_microbatches
from batchd_server.errors import Unprocessable
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec
from batchd_server.models.trainable import DatasetFiles, Trainable
from batchd_server.training.datasets.column_examples import ColumnExamples
from batchd_server.training.datasets.table import Column, Table
from batchd_server.training.job_check import check_job
from batchd_server.training.job_spec import JobSpec

CPU = torch.device("cpu")
EXAMPLES = Path(__file__).parents[2] / "examples"
COUNT = 96


@pytest.fixture(scope="module")
def model() -> Iterator[PaddedModel]:
    sys.path.insert(0, str(EXAMPLES))
    from sensor_forecast import SensorForecast

    yield SensorForecast()
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    """Walks of three sensors of which each step follows from the last."""
    rng = np.random.default_rng(0)
    step = np.array([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.0], [0.0, 0.1, 0.8]])
    path = tmp_path_factory.mktemp("data") / "walks.jsonl"
    with path.open("w") as file:
        for _ in range(COUNT):
            readings = [rng.normal(size=3)]
            for _ in range(int(rng.integers(1, 20))):
                readings.append(step @ readings[-1])
            row = {"readings": [each.tolist() for each in readings[:-1]], "next": readings[-1].tolist()}
            file.write(json.dumps(row) + "\n")
    return DatasetFiles(name="walks", format="jsonl", path=path)


def trainable(model: PaddedModel) -> Trainable:
    assert isinstance(model, Trainable)
    return model


def test_it_learns(model: PaddedModel, dataset: DatasetFiles) -> None:
    """To forecast better than by the last reading, which is where it starts."""
    learner = trainable(model)
    examples = learner.examples(dataset)
    everything = examples.batch(range(COUNT), (int(examples.sizes.max()),), CPU)
    torch.manual_seed(0)
    network = learner.new_network(fresh=False)
    before = learner.losses(network, everything).total.item()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        found = learner.losses(network, everything)
        (found.total / found.terms).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert learner.losses(network, everything).total.item() < 0.1 * before


def test_the_cut_and_the_padding_change_no_loss(model: PaddedModel, dataset: DatasetFiles) -> None:
    learner = trainable(model)
    examples = learner.examples(dataset)
    torch.manual_seed(0)
    network = learner.new_network(fresh=True)
    whole = learner.losses(network, examples.batch(range(COUNT), (30,), CPU))
    parts = [
        learner.losses(network, examples.batch(plan.indices, plan.padded_shape, CPU))
        for plan in plan_microbatches(examples.sizes, lambda shape: 40 // shape[0])
    ]
    assert len(parts) > 10
    assert sum(part.terms for part in parts) == whole.terms == examples.terms.sum()
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item(), rel=1e-5)


def test_what_was_trained_is_served(model: PaddedModel, dataset: DatasetFiles) -> None:
    learner = trainable(model)
    model.load(CPU)
    torch.manual_seed(0)
    fresh = learner.new_network(fresh=True)
    learner.adopt(fresh.state_dict())
    batch = learner.examples(dataset).batch([3, 1], (30,), CPU)
    with torch.no_grad():
        torch.testing.assert_close(model.forward(batch)["next"], fresh(batch))


def test_a_schedule_that_needs_classes_is_refused(model: PaddedModel) -> None:
    def spec(schedule: str) -> JobSpec:
        batching = {"schedule": {"name": schedule}, "max": COUNT}
        return JobSpec.model_validate({"model": "m", "dataset": "walks", "epochs": 1, "batching": batching})

    check_job(spec("linear"), trainable(model).task, examples=COUNT)
    with pytest.raises(Unprocessable, match="classification") as refused:
        check_job(spec("entropy"), trainable(model).task, examples=COUNT)
    assert refused.value.field == "batching.schedule.name"


class Rows(PaddedModel):
    """Of fixed size, as a table has them."""

    inputs = (TensorSpec(name="row", datatype="FP32", shape=(2,)),)
    outputs = (TensorSpec(name="value", datatype="FP32", shape=()),)

    def build(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def forward(self, batch: object) -> dict[str, torch.Tensor]:
        raise NotImplementedError


class Steps(Rows):
    inputs = (TensorSpec(name="row", datatype="FP32", shape=("steps", 2)),)


def test_rows_of_fixed_size_have_the_size_one() -> None:
    table = Table({"x": Column.dense(np.arange(6.0).reshape(3, 2)), "y": Column.dense(np.arange(3.0))})
    examples = ColumnExamples(Rows(), table, TensorSpec(name="value", datatype="FP32", shape=()))
    assert examples.sizes.tolist() == [[1], [1], [1]]
    batch = examples.batch([2, 0], (1,), CPU)
    assert batch["row"].tolist() == [[4, 5], [0, 1]]
    assert batch["value"].tolist() == [2, 0]
    assert not batch.has_padding


def test_a_label_along_an_input_s_axis_is_padded_with_it() -> None:
    table = Table(
        {
            "row": Column(np.arange(6.0), np.array([[1, 2], [2, 2]])),
            "y": Column.cut(np.array([7, 8, 9]), np.array([0, 1, 3])),
        }
    )
    label = TensorSpec(name="value", datatype="INT64", shape=("steps",))
    examples = ColumnExamples(Steps(), table, label, terms_axis="steps")
    assert examples.terms.tolist() == [1, 2]
    assert examples.batch([1, 0], (3,), CPU)["value"].tolist() == [[8, 9, 0], [7, 0, 0]]
    wrong = Table({**table.columns, "y": Column.cut(np.array([7, 8, 9]), np.array([0, 2, 3]))})
    with pytest.raises(ValueError, match="example 0: 'value' is 2 along 'steps', the inputs are 1"):
        ColumnExamples(Steps(), wrong, label)
