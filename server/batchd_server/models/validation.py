"""Checks one request's tensors against a model's input specifications, and cuts them into items.

Knows no protocol: the tensors are numpy arrays already, whatever bytes they came as.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from batchd_server.errors import BadRequest
from batchd_server.models.spec import NUMPY_DTYPES, Array, TensorSpec


def split_items(
    specs: Sequence[TensorSpec], tensors: Mapping[str, Array] | Iterable[tuple[str, Array]]
) -> list[dict[str, Array]]:
    """Return the items of a request whose `tensors` all have a leading batch axis.

    Pairs instead of a mapping let a name that was sent twice be noticed. The items are views of the arrays given.

    Raises:
        BadRequest: with `field` naming the tensor, and what is allowed in the message.
    """
    known = {spec.name: spec for spec in specs}
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    given: dict[str, Array] = {}
    for name, array in pairs:
        if name not in known:
            raise BadRequest(f"unknown input {name!r}; this model takes {_listing(specs)}", field=name)
        if name in given:
            raise BadRequest(f"input {name!r} is given twice", field=name)
        given[name] = array
    for spec in specs:
        if spec.name not in given and not spec.optional:
            raise BadRequest(f"input {spec.name!r} is missing; this model takes {_listing(specs)}", field=spec.name)
    if not given:
        raise BadRequest(f"the request has no inputs; this model takes {_listing(specs)}", field="inputs")

    for name, array in given.items():
        _check_tensor(known[name], array)
    _check_axis_names(known, given)
    return _cut(given)


def _check_tensor(spec: TensorSpec, array: Array) -> None:
    name = spec.name
    if array.dtype != spec.dtype:
        got = next((datatype for datatype, dtype in NUMPY_DTYPES.items() if dtype == array.dtype), array.dtype)
        raise BadRequest(f"input {name!r} must be {spec.datatype}, got {got}", field=name)
    if array.ndim != len(spec.shape) + 1:
        raise BadRequest(
            f"input {name!r} must have {len(spec.shape) + 1} axes, {spec.wire_shape}, got shape {list(array.shape)}",
            field=name,
        )
    if array.shape[0] == 0:
        raise BadRequest(f"input {name!r} holds no items: its first axis must be at least 1", field=name)
    for axis, size in zip(spec.shape, array.shape[1:], strict=True):
        if isinstance(axis, int):
            if size != axis:
                raise BadRequest(
                    f"input {name!r} must have shape {spec.wire_shape}, got {list(array.shape)}", field=name
                )
        elif size == 0:
            raise BadRequest(f"input {name!r}: axis {axis!r} must be at least 1, got 0", field=name)
        elif spec.max_size is not None and size > spec.max_size:
            raise BadRequest(f"input {name!r}: axis {axis!r} may be {spec.max_size} at most, got {size}", field=name)
    if spec.datatype == "BYTES" and not all(isinstance(element, bytes) for element in array.flat):
        raise BadRequest(f"input {name!r} must hold bytes", field=name)
    if spec.finite and not np.isfinite(array).all():
        index = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise BadRequest(f"input {name!r} must be finite: item {index} holds NaN or an infinity", field=name)


def _check_axis_names(known: Mapping[str, TensorSpec], given: Mapping[str, Array]) -> None:
    """Check that all tensors have as many items, and that an axis name has one size."""
    items_of, num_items = next((name, len(array)) for name, array in given.items())
    sizes: dict[str, tuple[str, int]] = {}
    for name, array in given.items():
        if len(array) != num_items:
            raise BadRequest(
                f"input {name!r} holds {len(array)} items, input {items_of!r} {num_items}: they must be equal",
                field=name,
            )
        for axis, size in zip(known[name].shape, array.shape[1:], strict=True):
            if isinstance(axis, int):
                continue
            first, expected = sizes.setdefault(axis, (name, size))
            if size != expected:
                raise BadRequest(
                    f"input {name!r}: axis {axis!r} is {size}, but {expected} in input {first!r}: they must be equal",
                    field=name,
                )


def _cut(given: Mapping[str, Array]) -> list[dict[str, Array]]:
    num_items = len(next(iter(given.values())))
    # The ellipsis keeps scalars of an item as arrays of shape ().
    return [{name: array[index, ...] for name, array in given.items()} for index in range(num_items)]


def _listing(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} ({spec.datatype} {spec.wire_shape})" for spec in specs)
