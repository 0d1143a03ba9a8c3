"""What steps take: a fixed part and a part per example, the one thing that the statistics hear of the device."""

from __future__ import annotations

from collections.abc import Mapping

LATEST = 0.1
"""Weight of the latest step in the averages."""


class StepTimes:
    """Averages over steps. What microbatches cost counts as their examples': more examples, more microbatches."""

    def __init__(self) -> None:
        self._alpha: float | None = None
        self._beta: float | None = None
        self._learning_s = 0.0  # microbatches of the step under way
        self._device_s = 0.0  # everything since the last step's end

    def ran(self, seconds: float, *, learning: bool) -> None:
        """Count device time; `learning` is that of the step's microbatches."""
        self._device_s += seconds
        self._learning_s += seconds * learning

    def end_step(self, optimizer_s: float, examples: int) -> float:
        """Close a step, of which the optimizer took `optimizer_s`; return its device time, with passes before it."""
        device_s = self._device_s + optimizer_s
        self._alpha = _averaged(self._alpha, optimizer_s)
        self._beta = _averaged(self._beta, self._learning_s / examples)
        self._learning_s = self._device_s = 0.0
        return device_s

    @property
    def fit(self) -> tuple[float | None, float | None]:
        """Seconds of a step whatever its size, and per example; None before the first."""
        return self._alpha, self._beta

    def state_dict(self) -> dict[str, float | None]:
        """Return the averages as JSON."""
        return {"alpha": self._alpha, "beta": self._beta}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Go on from another one's averages."""
        self._alpha, self._beta = state["alpha"], state["beta"]


def _averaged(average: float | None, latest: float) -> float:
    return latest if average is None else (1 - LATEST) * average + LATEST * latest
