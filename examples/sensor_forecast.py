"""A model of your own that can be trained: from a recording of three sensors, however long, to their next reading.

cd examples && batchd serve --config sensor_forecast.toml
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from batchd.schedules import Task
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import TensorSpec
from batchd_server.models.trainable import DatasetFiles, Losses
from batchd_server.models.weights import replace_weights
from batchd_server.training.datasets.column_examples import ColumnExamples
from batchd_server.training.datasets.opening import open_dataset


class Forecaster(torch.nn.Module):
    """A convolution over time, its mean, and the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv1d(3, 16, kernel_size=5, padding=2)
        self.head = torch.nn.Linear(19, 3)

    def forward(self, batch: PaddedBatch) -> torch.Tensor:
        """Return (B, 3). What is padded is masked out of the mean, and the last step is each item's own."""
        readings, lengths = batch["readings"], batch.lengths("steps")
        features = functional.relu(self.convolution(readings.mT)) * batch.mask("steps").unsqueeze(1)
        last = readings[torch.arange(len(lengths), device=lengths.device), lengths - 1]
        return last + self.head(torch.cat((features.sum(dim=2) / lengths.unsqueeze(1), last), dim=1))


class SensorForecast(PaddedModel):
    """Takes readings (steps, 3), gives the next one (3,). Implements `batchd_server.models.trainable.Trainable`."""

    inputs = (TensorSpec(name="readings", datatype="FP32", shape=("steps", 3), finite=True),)
    outputs = (TensorSpec(name="next", datatype="FP32", shape=(3,)),)
    task = Task(kind="regression")

    def build(self) -> torch.nn.Module:
        """Return the network that is served until a trained one is promoted."""
        return self.new_network(fresh=False)

    def forward(self, batch: PaddedBatch) -> dict[str, torch.Tensor]:
        """Return the forecast."""
        return {"next": self.network(batch)}

    def new_network(self, *, fresh: bool) -> torch.nn.Module:
        """No weights come along: a network that is not fresh repeats the last reading."""
        network = Forecaster()
        if not fresh:
            torch.nn.init.zeros_(network.head.weight)
            torch.nn.init.zeros_(network.head.bias)
        return network

    def examples(self, dataset: DatasetFiles) -> ColumnExamples:
        """Open a dataset with columns `readings` (steps, 3) and `next` (3,)."""
        return ColumnExamples(self, open_dataset(dataset), self.outputs[0])

    def losses(self, network: torch.nn.Module, batch: PaddedBatch) -> Losses:
        """Return the squared errors, summed over sensors and examples."""
        total = functional.mse_loss(network(batch), batch["next"], reduction="sum")
        return Losses(total=total, terms=float(len(batch.sizes)))

    def adopt(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Serve with these weights from the next batch on."""
        replace_weights(self.network, weights)
