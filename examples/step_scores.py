"""A model without padding: scores every step of a recording by itself, and tells the mean, however long it is.

cd examples && batchd serve --config step_scores.toml
"""

from __future__ import annotations

import torch

from batchd_server.models.ragged import RaggedBatch, RaggedModel
from batchd_server.models.spec import TensorSpec


class StepScores(RaggedModel):
    """Takes readings (steps, 3); gives a score per step, and their mean."""

    inputs = (TensorSpec(name="readings", datatype="FP32", shape=("steps", 3), finite=True),)
    outputs = (
        TensorSpec(name="scores", datatype="FP32", shape=("steps",)),
        TensorSpec(name="mean", datatype="FP32", shape=()),
    )

    def build(self) -> torch.nn.Module:
        """Return the network; load your own weights here."""
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.GELU(), torch.nn.Linear(16, 1))

    def forward(self, batch: RaggedBatch) -> dict[str, torch.Tensor]:
        """All steps of all recordings at once; the lengths say which belong together."""
        scores = self.network(batch["readings"]).squeeze(-1)
        return {"scores": scores, "mean": torch.segment_reduce(scores, "mean", lengths=batch.lengths)}
