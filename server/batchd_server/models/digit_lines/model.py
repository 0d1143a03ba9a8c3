"""The digit reader as a model. Only `build` and `forward`, which run in the device process, need torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from batchd_server.models.digit_lines.scans import DIGIT_PIXELS
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import Tensors, TensorSpec

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = Path(__file__).with_name("weights.safetensors")
MAX_DIGITS = 32


class DigitLines(PaddedModel):
    """Reads an image of 1 to 32 digits side by side, 8 pixels each, with values in 0..1."""

    inputs: Sequence[TensorSpec] = (
        TensorSpec(
            name="image",
            datatype="FP32",
            shape=(DIGIT_PIXELS, "width"),
            finite=True,
            max_size=MAX_DIGITS * DIGIT_PIXELS,
        ),
    )
    outputs: Sequence[TensorSpec] = (
        TensorSpec(name="digits", datatype="INT64", shape=("digits",)),
        TensorSpec(name="scores", datatype="FP32", shape=("digits", 10)),  # log-probabilities
    )

    default_batching: ClassVar[Mapping[str, object]] = {"max_batch_size": 16}
    """On a CPU core a line costs no less in larger batches, which only mix more widths."""

    def preprocess(self, item: Tensors) -> Tensors:
        """Refuse a width that is no whole number of digits.

        Raises:
            ValueError: the width is no multiple of 8.
        """
        width = item["image"].shape[1]
        if width % DIGIT_PIXELS:
            raise ValueError(f"'image': width must be a multiple of {DIGIT_PIXELS} pixels, got {width}")
        return item

    def output_sizes(self, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """Return one digit for every 8 pixels."""
        return {"digits": sizes["width"] // DIGIT_PIXELS}

    def build(self) -> torch.nn.Module:
        """Return the network with the weights that lie beside this module."""
        from safetensors.torch import load_file  # noqa: PLC0415 - device process only

        from batchd_server.models.digit_lines.network import DigitLineNetwork  # noqa: PLC0415 - device process only

        network = DigitLineNetwork()
        network.load_state_dict(load_file(WEIGHTS_FILE))
        return network

    def forward(self, batch: PaddedBatch) -> dict[str, torch.Tensor]:
        """Return log-probabilities, and the likeliest digit."""
        scores = self.network(batch["image"], batch.mask("width") if batch.has_padding else None)
        return {"digits": scores.argmax(dim=-1), "scores": scores}
