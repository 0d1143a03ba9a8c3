"""How well peaks are predicted before anything has run, and how long that takes.

    python benchmarks/memory_prediction.py

For the shipped models: the ledger's peak of a batch on the CPU, in which one item is short and the others fill the
padded length, against the prediction made on fake tensors. Prints a table.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchd_server.device.memory.cpu import LedgerPeaks
from batchd_server.device.memory.host import HostProbe
from batchd_server.device.memory.prediction import PeakPredictor
from batchd_server.device.work import PlannedBatch
from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.exported import ExportedModel

CPU = torch.device("cpu")
BATCH_SIZES = (1, 8, 32)
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model, the lengths to try, and what makes an item of one."""

    name: str
    model: Any
    lengths: tuple[int, ...]
    item: Callable[[int], Any]


class Layer(torch.nn.Module):
    """An encoder layer, to be exported. Shapes: x (B, L, 64), mask (B, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = torch.nn.MultiheadAttention(64, 4, batch_first=True)
        self.widen = torch.nn.Linear(64, 256)
        self.narrow = torch.nn.Linear(256, 64)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return (B, L, 64)."""
        attended, _ = self.attend(x, x, x, key_padding_mask=~mask, need_weights=False)
        hidden: torch.Tensor = self.narrow(torch.nn.functional.gelu(self.widen(x + attended)))
        return hidden


def digit_lines() -> Subject:
    """The embedded default model."""
    return Subject("digit-lines", DigitLines(), (8, 64, 256), lambda width: {"image": np.zeros((8, width), np.float32)})


def text_encoder() -> Subject | None:
    """The sentence encoder, where its extra is installed."""
    try:
        from batchd_server.models.text_encoder import TextEncoder

        model = TextEncoder()
    except FileNotFoundError as error:
        print(f"text-encoder is left out: {error}")
        return None
    return Subject("text-encoder", model, (8, 64, 256), model.example)


def exported(folder: Path) -> Subject:
    """A file of torch.export."""
    items, steps = torch.export.Dim("items", min=1, max=256), torch.export.Dim("steps", min=2, max=512)
    example = (torch.randn(2, 5, 64), torch.ones(2, 5, dtype=torch.bool))
    axes = ({0: items, 1: steps}, {0: items, 1: steps})
    path = folder / "layer.pt2"
    torch.export.save(torch.export.export(Layer().eval(), example, dynamic_shapes=axes), path)
    tensors = [{"name": "x", "datatype": "FP32", "shape": ["steps", 64]}]
    model = ExportedModel(path=str(path), inputs=tensors, outputs=[tensors[0] | {"name": "y"}], mask_input="mask")
    return Subject("exported layer", model, (8, 64, 256), lambda steps: {"x": np.zeros((steps, 64), np.float32)})


def ledger_peak(model: Any, batch: PlannedBatch) -> int:
    """Return what the batch really takes."""
    with LedgerPeaks(HostProbe(), sample_every=1).measure(("", 1, ())) as measurement:
        collated = model.collate(batch.items, batch.padded_shape)
        measurement.adopt(collated)
        outputs = model.run(collated)
        model.split(outputs, batch.items)
    assert measurement.peak_bytes is not None
    return measurement.peak_bytes


def report(subject: Subject) -> None:
    """Print the rows of one model."""
    with torch.no_grad():
        subject.model.load(CPU)
        predictor = PeakPredictor(subject.model, CPU)
        seconds: list[float] = []
        for length in subject.lengths:
            for batch_size in BATCH_SIZES:
                items = (subject.item(subject.lengths[0]), *[subject.item(length)] * (batch_size - 1))
                batch = PlannedBatch(items, (length,))
                begun = time.process_time()
                predicted = predictor.peak_bytes(batch, time.monotonic() + LIMIT_S)
                seconds.append(time.process_time() - begun)
                measured = ledger_peak(subject.model, batch)
                print(
                    f"| {subject.name} | {batch_size} | {length} | {predicted / 2**20:.3f} | {measured / 2**20:.3f} "
                    f"| {predicted / measured - 1:+.2%} |"
                )
        print(f"<!-- {subject.name}: median {statistics.median(seconds) * 1000:.0f} ms of processor time -->")


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| model | B | L | predicted MiB | ledger MiB | error |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for subject in (digit_lines(), text_encoder(), exported(Path(folder))):
            if subject is not None:
                report(subject)


if __name__ == "__main__":
    main()
