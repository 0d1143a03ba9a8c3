"""The law of a real device, from what its daemon has learned of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from batchd.latency_model import LatencyModel
from batchd.simulator.device_law import DeviceLaw

_SIGMA = 0.6827
"""Share of a normal distribution within one sigma."""


def learned_law(state: Mapping[str, Any]) -> DeviceLaw:
    """Return the law in a model's `state` (what `Controller.state_dict` gives), and as much noise as there was.

    Raises:
        ValueError: it is no such state, or nothing has been learned yet.
    """
    latency: Any = state.get("latency")
    if not isinstance(latency, dict):
        raise ValueError("not a served model's state: needs the table latency")
    model = LatencyModel()
    model.load_state_dict(cast("dict[str, Any]", latency))
    if model.coefficients is None:
        raise ValueError("no batch has been measured yet")
    return DeviceLaw.learned(model.coefficients, _sigma(cast("list[float]", latency["ratios"])))


def _sigma(ratios: list[float]) -> float:
    """Half of what two thirds of the log ratios span: unlike the standard deviation, unmoved by a few stragglers."""
    if len(ratios) < LatencyModel().config.min_ratios:
        return 0.0
    ordered = sorted(math.log(ratio) for ratio in ratios)
    tail = round((1 - _SIGMA) / 2 * (len(ordered) - 1))
    return (ordered[-1 - tail] - ordered[tail]) / 2
