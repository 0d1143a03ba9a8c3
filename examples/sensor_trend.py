"""A model of your own: smooths a recording of three sensors, however long it is, and tells its mean.

cd examples && batchd serve --config sensor_trend.toml
"""

from __future__ import annotations

import torch

from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import TensorSpec


class SensorTrend(PaddedModel):
    """Takes readings (steps, 3), gives a smoothed recording of the same length and its mean."""

    inputs = (TensorSpec(name="readings", datatype="FP32", shape=("steps", 3), finite=True),)
    outputs = (
        TensorSpec(name="smooth", datatype="FP32", shape=("steps", 3)),
        TensorSpec(name="mean", datatype="FP32", shape=(3,)),
    )

    def build(self) -> torch.nn.Module:
        """Return the network; load your own weights here."""
        torch.manual_seed(0)
        return torch.nn.Conv1d(3, 3, kernel_size=5, padding=2)

    def forward(self, batch: PaddedBatch) -> dict[str, torch.Tensor]:
        """Padding is zero, as beyond the ends of a recording; for the mean it is masked."""
        smooth = self.network(batch["readings"].mT).mT
        own = smooth * batch.mask("steps").unsqueeze(-1)
        return {"smooth": smooth, "mean": own.sum(dim=1) / batch.lengths("steps").unsqueeze(-1)}
