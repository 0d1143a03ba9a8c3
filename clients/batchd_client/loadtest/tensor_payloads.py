"""Requests of random tensors, made to the measure of a model's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchd_client.infer_codec import encode_infer
from batchd_client.loadtest.lengths import Lengths
from batchd_client.loadtest.payload import Payload
from batchd_client.metadata import ModelMetadata, TensorMetadata
from batchd_client.tensor_codec import WIRE_DTYPES

Array: TypeAlias = npt.NDArray[Any]

_WORDS = ("the", "batch", "waits", "for", "work", "that", "fits", "and", "leaves", "before", "its", "deadline")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPayloads:
    """Random tensors: floats in [0, 1), integers in [0, `integer_high`), BYTES as words.

    A length is drawn per variable axis position and shared by all inputs, so that `input_ids` and `attention_mask`
    agree while height and width differ. For BYTES without a variable axis the length is the number of words.
    """

    model: str
    inputs: tuple[TensorMetadata, ...]
    lengths: Lengths
    integer_high: int = 1000

    def make(
        self, rng: np.random.Generator, *, size: int | None = None, items: int = 1, deadline_s: float | None = None
    ) -> Payload:
        """Encode a request; `size`, where given, is the length of every variable axis."""
        num_axes = max(len(tensor.shape) for tensor in self.inputs)
        drawn = self.lengths.sample(rng, num_axes) if size is None else np.full(num_axes, size, dtype=np.int64)
        arrays = {tensor.name: self._array(tensor, drawn, items, rng) for tensor in self.inputs}
        variable = {axis for tensor in self.inputs for axis, length in enumerate(tensor.shape) if axis and length < 0}
        texts = any(tensor.datatype == "BYTES" for tensor in self.inputs)
        used = sorted(variable) or ([0] if texts else [])
        request = encode_infer(self.model, arrays, timeout_s=deadline_s)
        return Payload(
            path=request.path,
            headers=request.headers,
            body=request.body,
            size=int(np.prod(drawn[used])) if used else 0,
            items=items,
        )

    def _array(
        self, tensor: TensorMetadata, drawn: npt.NDArray[np.int64], items: int, rng: np.random.Generator
    ) -> Array:
        # The first axis is the batch's where it varies, which is how the protocol tells it from the rest.
        shape = tuple(
            items if axis == 0 and length < 0 else int(drawn[axis]) if length < 0 else length
            for axis, length in enumerate(tensor.shape)
        )
        if tensor.datatype == "BYTES":
            words = 1 if any(length < 0 for length in tensor.shape[1:]) else int(drawn[0])
            texts = [" ".join(rng.choice(_WORDS, words)).encode() for _ in range(int(np.prod(shape)))]
            return np.array(texts, dtype=object).reshape(shape)
        dtype = WIRE_DTYPES[tensor.datatype]
        if dtype.kind == "f":
            return rng.random(shape, dtype=np.float32).astype(dtype)
        if dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(dtype)
        high = min(self.integer_high, int(np.iinfo(dtype).max))
        return rng.integers(0, high, shape).astype(dtype)


def tensor_payloads(
    metadata: ModelMetadata, lengths: Lengths, *, only: Sequence[str] = (), integer_high: int = 1000
) -> TensorPayloads:
    """Make requests for the inputs that `only` names, else for all.

    Raises:
        ValueError: where the model lacks such an input, or a datatype cannot be made.
    """
    names = [tensor.name for tensor in metadata.inputs]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ValueError(f"model {metadata.name!r} has no input {unknown[0]!r}; it has {', '.join(names)}")
    inputs = tuple(tensor for tensor in metadata.inputs if not only or tensor.name in only)
    for tensor in inputs:
        if tensor.datatype != "BYTES" and tensor.datatype not in WIRE_DTYPES:
            raise ValueError(f"input {tensor.name!r}: datatype {tensor.datatype} cannot be made up; give --inputs")
    if not inputs:
        raise ValueError(f"model {metadata.name!r} declares no inputs; give --inputs")
    return TensorPayloads(model=metadata.name, inputs=inputs, lengths=lengths, integer_high=integer_high)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPayloads:
    """Items from files, without the batch axis; a request repeats one item, as items of one request must agree."""

    model: str
    recorded: tuple[dict[str, Array], ...]

    def make(
        self, rng: np.random.Generator, *, size: int | None = None, items: int = 1, deadline_s: float | None = None
    ) -> Payload:
        """Encode a request of a recorded item, for `size` of the one nearest to that many elements."""
        sizes = [max(array.size for array in item.values()) for item in self.recorded]
        chosen = int(rng.integers(len(sizes))) if size is None else int(np.argmin([abs(n - size) for n in sizes]))
        arrays = {name: np.repeat(array[np.newaxis], items, axis=0) for name, array in self.recorded[chosen].items()}
        request = encode_infer(self.model, arrays, timeout_s=deadline_s)
        return Payload(path=request.path, headers=request.headers, body=request.body, size=sizes[chosen], items=items)


def read_items(path: Path) -> tuple[dict[str, Array], ...]:
    """Read `.npz` items: one file, or all of a folder. Each array is one input of one item, without the batch axis.

    Raises:
        ValueError: where there is none, or a file is no npz.
        OSError: a file cannot be read.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    items: list[dict[str, Array]] = []
    for file in files:
        try:
            loaded = np.load(file, allow_pickle=False)
            items.append({name: loaded[name] for name in loaded.files})
        except (ValueError, AttributeError, EOFError) as error:
            raise ValueError(f"{file}: not an .npz file of plain arrays") from error
    if not items or not all(items):
        raise ValueError(f"{path}: no .npz item in it")
    return tuple(items)
