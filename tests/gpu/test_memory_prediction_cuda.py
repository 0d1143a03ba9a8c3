"""Predicted peaks against the caching allocator's counters."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from batchd_server.device.memory.cuda import CudaPeaks
from batchd_server.device.memory.prediction import PeakPredictor
from batchd_server.device.work import PlannedBatch
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import TensorSpec

pytestmark = pytest.mark.gpu


class Wide(PaddedModel):
    """Layers wide enough that activations outweigh the workspaces of the libraries."""

    inputs: Sequence[TensorSpec] = (TensorSpec(name="x", datatype="FP32", shape=("n", 256)),)
    outputs: Sequence[TensorSpec] = (TensorSpec(name="y", datatype="FP32", shape=("n", 256)),)

    def build(self) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(256, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 1024), torch.nn.Linear(1024, 256)
        )

    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        return {"y": self.network(batch["x"]) * batch.mask("n").unsqueeze(-1)}


@pytest.mark.parametrize("batch_size", [8, 64])
@pytest.mark.parametrize("length", [64, 256])
def test_a_peak_is_predicted_within_ten_percent(batch_size: int, length: int) -> None:
    device = torch.device("cuda", 0)
    model = Wide()
    model.load(device)
    items = tuple({"x": np.zeros((size, 256), np.float32)} for size in (16, *[length] * (batch_size - 1)))
    batch = PlannedBatch(items, (length,))
    predictor = PeakPredictor(model, device)
    before = torch.cuda.memory_allocated(device)
    predicted = predictor.peak_bytes(batch, time.monotonic() + 60)
    assert torch.cuda.memory_allocated(device) == before, "nothing stays behind"
    peak_bytes = None
    for _ in range(2):  # the first run pays for the libraries' workspaces
        with torch.no_grad(), CudaPeaks(device).measure(("m", batch_size, (length,))) as measurement:
            collated = model.collate(batch.items, batch.padded_shape)
            outputs = model.run(collated)
            answers = model.split(outputs, batch.items)
            del collated, outputs
        assert len(answers) == batch_size
        peak_bytes = measurement.peak_bytes
    assert peak_bytes is not None
    assert predicted == pytest.approx(peak_bytes, rel=0.1)
