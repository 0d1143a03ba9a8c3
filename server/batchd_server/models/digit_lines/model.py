"""The digit reader as a model. Only `build` and `forward`, which run in the device process, need torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from batchd.schedules import Task
from batchd_server.models.digit_lines.scans import DIGIT_PIXELS, NUM_CLASSES
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import Tensors, TensorSpec
from batchd_server.models.weights import replace_weights

if TYPE_CHECKING:
    import torch

    from batchd_server.models.digit_lines.line_examples import LineBatch, LineExamples
    from batchd_server.models.trainable import DatasetFiles, Losses

WEIGHTS_FILE = Path(__file__).with_name("weights.safetensors")
MAX_DIGITS = 32
FRESH_SEED = 0
Weights = Literal["shipped", "fresh"]


class DigitLines(PaddedModel):
    """Reads an image of 1 to 32 digits side by side, 8 pixels each, with values in 0..1. Can be trained."""

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

    def __init__(self, weights: Weights = "shipped") -> None:
        """Begin with the weights that lie beside this module, or knowing nothing: `fresh` ones are always the same.

        Raises:
            ValueError: there are no such weights.
        """
        if weights not in get_args(Weights):
            raise ValueError(f"weights must be one of {', '.join(get_args(Weights))}, got {weights!r}")
        self._weights = weights

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
        """Return the network with the weights that it begins with."""
        return self.new_network(fresh=False)

    def forward(self, batch: PaddedBatch) -> dict[str, torch.Tensor]:
        """Return log-probabilities, and the likeliest digit."""
        scores = self.network(batch["image"], batch.mask("width") if batch.has_padding else None)
        return {"digits": scores.argmax(dim=-1), "scores": scores}

    @property
    def task(self) -> Task:
        """A digit is one of ten classes."""
        return Task(kind="classification", num_classes=NUM_CLASSES)

    def new_network(self, *, fresh: bool) -> torch.nn.Module:
        """Return a network with weights from torch's random state, or with those that serving begins with."""
        import torch  # noqa: PLC0415 - device process only
        from safetensors.torch import load_file  # noqa: PLC0415 - device process only

        from batchd_server.models.digit_lines.network import DigitLineNetwork  # noqa: PLC0415 - device process only

        if fresh:
            return DigitLineNetwork()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(FRESH_SEED)
            network = DigitLineNetwork()
        if self._weights == "shipped":
            network.load_state_dict(load_file(WEIGHTS_FILE))
        return network

    def examples(self, dataset: DatasetFiles) -> LineExamples:
        """Open the built-in `digit-lines`, or a dataset with `image` (8, width) and `digits` (width / 8,).

        Raises:
            ValueError: it holds something else.
        """
        from batchd_server.models.digit_lines.line_examples import open_lines  # noqa: PLC0415 - not in a front

        return open_lines(dataset)

    def losses(self, network: torch.nn.Module, batch: LineBatch) -> Losses:
        """Return the negative log-likelihood of every digit, summed."""
        from batchd_server.models.digit_lines.training import line_losses  # noqa: PLC0415 - device process only

        return line_losses(network, batch)

    def adopt(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Serve with these weights from the next batch on.

        Raises:
            ValueError: they are those of another network; the ones that are served stay.
        """
        replace_weights(self.network, weights)
