"""The short notations for what `batchd simulate` does to the device besides the law of time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchd.controller import Controller
from batchd.simulator.device_law import DeviceLaw, Slowdown
from batchd.simulator.device_memory import DeviceMemory, Neighbour

MEMORY = "BYTES:PER_TOKEN[:PER_TOKEN_SQUARED[:FIXED]]"
NEIGHBOUR = "BYTES:FROM_S[:TO_S]"
SLOWDOWN = "FACTOR:FROM_S"


def parse_memory(spec: str, neighbours: Sequence[str] = ()) -> DeviceMemory:
    """Return the memory that `spec` describes, beside `neighbours`.

    Raises:
        ValueError: not of the form of `MEMORY` or `NEIGHBOUR`, or figures that are no memory.
    """
    total, per_element, per_square, fixed = _numbers("memory", spec, MEMORY, 2, (0.0, 0.0))
    return DeviceMemory(
        total=int(total),
        per_element=per_element,
        per_square=per_square,
        fixed=int(fixed),
        neighbours=tuple(_neighbour(neighbour) for neighbour in neighbours),
    )


def _neighbour(spec: str) -> Neighbour:
    held, begins, ends = _numbers("neighbour", spec, NEIGHBOUR, 2, (math.inf,))
    return Neighbour(held=int(held), begins=begins, ends=ends)


def parse_slowdowns(specs: Sequence[str]) -> tuple[Slowdown, ...]:
    """Return what `specs` describe, in order of time.

    Raises:
        ValueError: not of the form of `SLOWDOWN`, or figures that are no slowdown.
    """
    found = (Slowdown(factor=f, begins=b) for f, b in (_numbers("slowdown", spec, SLOWDOWN, 2) for spec in specs))
    return tuple(sorted(found, key=lambda slowdown: slowdown.begins))


def calibrate(controller: Controller, model: str, law: DeviceLaw, *, longest: int, max_batch_size: int) -> None:
    """Let a controller know what `law` says of batches of powers of two, without noise and slowdowns.

    Only of batches that fit the device while nobody else is there.
    """
    memory = law.memory
    for elements in _powers_up_to(longest):
        for batch_size in _powers_up_to(max_batch_size):
            if memory is None or memory.peak_bytes(batch_size, elements) <= memory.total - memory.resident:
                controller.calibrate(model, batch_size, (elements,), law.exact_seconds(batch_size, elements))


def _powers_up_to(limit: int) -> list[int]:
    return [*(2**power for power in range((limit - 1).bit_length())), limit]


def _numbers(what: str, spec: str, form: str, least: int, defaults: tuple[float, ...] = ()) -> list[float]:
    try:
        numbers = [float(number) for number in spec.split(":")]
    except ValueError:
        numbers = []
    missing = least + len(defaults) - len(numbers)
    if not 0 <= missing <= len(defaults) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{what} {spec!r} is not of the form {form}")
    return [*numbers, *defaults[len(defaults) - missing :]] if missing else numbers
