"""What a user implements to have a PyTorch model served.

A model object lives twice. In the front process it is only constructed: `inputs`, `outputs`, `preprocess` and `shape`
are used, so construction must be cheap and must not load weights. In the device process `load` is called once, on a
thread of its own, so that other models are served meanwhile; then `collate`, `run` and `split` for every batch, all on
the device thread.

`batchd_server.models.padded.PaddedModel` implements all but `build` and `forward` for models that pad,
`batchd_server.models.ragged.RaggedModel` for models that take items laid end to end; derive from one of them unless you
need something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from batchd.item import Shape
from batchd_server.models.spec import Tensors, TensorSpec

if TYPE_CHECKING:  # a front process constructs models without importing torch
    import torch


@runtime_checkable
class Model(Protocol):
    """The one protocol between batchd and a model. Constructed with the `options` table of the configuration."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What clients send, per item. A plain class attribute will do."""
        ...

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """What clients get, per item. A plain class attribute will do."""
        ...

    def preprocess(self, item: Tensors) -> Tensors:
        """Turn one client item, already checked against `inputs`, into what `collate` takes. Runs in the front.

        Raises:
            ValueError: where the content is not acceptable; the message goes to the client.
        """
        ...

    def shape(self, item: Tensors) -> Shape:
        """Return the variable dimensions of a preprocessed item; what batches are sized and padded by."""
        ...

    def load(self, device: torch.device) -> None:
        """Load weights onto `device`. Called once, before any batch."""
        ...

    def collate(self, items: Sequence[Tensors], padded_shape: Shape) -> Any:
        """Build a batch on the device, every item padded to `padded_shape`. Padding must not change an answer."""
        ...

    def run(self, batch: Any) -> Any:
        """Run the network. Called without gradients: the caller sets the grad mode, the model does not."""
        ...

    def split(self, outputs: Any, items: Sequence[Tensors]) -> Sequence[Tensors]:
        """Return one answer per item, in order, cropped to the item's own size, as numpy arrays on the host."""
        ...


@runtime_checkable
class SupportsRagged(Model, Protocol):
    """What a model adds to take batches without padding: its items laid end to end.

    `run` and `split` are given what `collate_ragged` built as they are given what `collate` built, and an item's answer
    is the same either way. The setting `layout` says which of the two is used.
    """

    def collate_ragged(self, items: Sequence[Tensors]) -> Any:
        """Build a batch on the device of items laid end to end."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """What a model adds to be served at `/v1/embeddings`."""

    embedding_input: str
    """The input that takes a text as BYTES of shape ()."""
    token_input: str
    """The input that takes token ids as INT64 of shape (tokens,)."""
    embedding_output: str
    """The FP32 output of shape (dimensions,)."""

    def num_tokens(self, item: Tensors) -> int:
        """Return the tokens of a preprocessed item, for the usage figures."""
        ...
