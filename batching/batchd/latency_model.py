"""Predicts how long a batch runs, from batches that ran.

    t = w0 + w1 * B + w2 * sum(E) + w3 * sum(E^2) + w4 * sum(E)^2

with w >= 0, B the batch size, and sums over the items' elements E: the padded ones where items are padded, so that
sum(E) = B * E, and their own where they lie end to end. The last term is there for devices that slow down once a batch
outgrows their caches: without it, on a CPU, the large batches push the fixed cost up to several times its true value,
and the controller merges what it should not. The fit is on relative errors (each row divided by its observed time):
absolute errors let the few long batches decide, and predict short ones wrong by a multiple.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchd.load import Load
from batchd.nnls import solve_nonnegative

LARGEST = 2**62
"""Beyond any batch size or sum of elements: what is larger was not learned but damaged."""

REACH = 8
"""So many times the elements of the largest items that ran; farther than that nothing is known."""

Weights: TypeAlias = tuple[float, float, float, float, float]
"""(w0, w1, w2, w3, w4) of the law above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModelConfig:
    """How the latency model learns and forgets. Counts are in batches."""

    samples_per_cell: int = 8
    """A cell is what `Load.cell` counts as one; more would let a hot cell drown the rest."""
    max_samples: int = 256
    forgetting: float = 0.995
    """Weight of a sample per batch of age."""
    refit_every: int = 16
    bend_min_samples: int = 24
    """Samples before w4 is considered: few samples cannot tell a bend from anything else."""
    bend_min_gain: float = 0.1
    """Share of the squared relative error that w4 must take away to be believed."""
    eager_until: int = 32
    """Refit after every batch until this many have been seen."""
    quantile: float = 0.95
    ratio_window: int = 200
    untrained_factor: float = 1.5
    """Upper time over predicted time until `min_ratios` ratios are known."""
    min_ratios: int = 20
    drift_threshold: float = 0.25
    """Smoothed |log(observed / predicted)| beyond which the device is suspected to have changed."""
    drift_patience: int = 10


@dataclass(slots=True)
class _Drift:
    """A smoothed log ratio, and for how many batches it has been out of bounds."""

    level: float = 0.0
    strikes: int = 0


@dataclass(slots=True)
class LatencyModel:
    """Latency of one model in one phase. Times in seconds."""

    config: LatencyModelConfig = field(default_factory=LatencyModelConfig)
    _cells: dict[Load, deque[tuple[int, Load, float]]] = field(default_factory=dict)  # (when, load, seconds)
    _by_age: deque[tuple[int, Load]] = field(default_factory=deque)  # (when, cell), oldest first
    _num_samples: int = 0
    _clock: int = 0  # batches observed, the model's own notion of age
    _weights: Weights | None = None
    _reach: int = LARGEST
    _ratios: deque[float] = field(default_factory=deque)
    _sorted_ratios: list[float] = field(default_factory=list)
    _drift: _Drift = field(default_factory=_Drift)

    @property
    def coefficients(self) -> Weights | None:
        """The fitted weights, or None before the first sample."""
        return self._weights

    @property
    def num_samples(self) -> int:
        """Samples that the fit rests on."""
        return self._num_samples

    def predict(self, load: Load) -> float | None:
        """Return the expected seconds of a batch; None before any sample."""
        if self._weights is None:
            return None
        w0, w1, w2, w3, w4 = self._weights
        load = load.within(self._reach)
        return w0 + w1 * load.batch_size + load.elements * (w2 + w4 * load.elements) + w3 * load.squares

    @property
    def reach(self) -> int:
        """Elements of one item up to which times are foretold; larger items are taken for such.

        A square that was fitted to small items says hours for what may take milliseconds, and while a single such item
        waits, everybody behind it would be refused. It is found out by running it.
        """
        return self._reach

    def upper_factor(self) -> float:
        """Return what a prediction is multiplied by to be exceeded only with probability 1 - quantile.

        Source: split conformal prediction, the ceil((n + 1) q)-th smallest of n ratios.
        """
        count = len(self._sorted_ratios)
        if count < self.config.min_ratios:
            return self.config.untrained_factor
        index = min(count, math.ceil((count + 1) * self.config.quantile)) - 1
        return max(1.0, self._sorted_ratios[index])

    def predict_upper(self, load: Load) -> float | None:
        """Return seconds that the batch exceeds only rarely; None before any sample."""
        expected = self.predict(load)
        return None if expected is None else expected * self.upper_factor()

    def observe(self, load: Load, seconds: float) -> None:
        """Learn from one batch. Non-positive times are ignored: a clock that stood still says nothing."""
        if seconds <= 0:
            return
        self._clock += 1
        expected = self.predict(load)
        if expected is not None and expected > 0:
            self._follow_drift(seconds / expected)
        self._keep(load, seconds)
        if self._clock <= self.config.eager_until or self._clock % self.config.refit_every == 0:
            self._refit()

    def _keep(self, load: Load, seconds: float) -> None:
        kind = load.cell()
        cell = self._cells.setdefault(kind, deque())
        cell.append((self._clock, load, seconds))
        self._num_samples += 1
        if len(cell) > self.config.samples_per_cell:
            cell.popleft()
            self._num_samples -= 1
        self._by_age.append((self._clock, kind))
        if len(self._by_age) > 4 * self.config.max_samples:
            ages = ((when, key) for key, kept in self._cells.items() for when, _, _ in kept)
            self._by_age = deque(sorted(ages, key=itemgetter(0)))
        while self._num_samples > self.config.max_samples:
            when, key = self._by_age.popleft()
            stale = self._cells.get(key)
            if stale and stale[0][0] == when:  # else it left its cell before
                stale.popleft()
                self._num_samples -= 1
                if not stale:
                    del self._cells[key]

    def _refit(self) -> None:
        samples = self._samples()
        table = np.asarray(samples, dtype=np.float64)
        size, elements, squares, when, observed = table.T
        self._reach = math.ceil(REACH * math.sqrt(float((squares / size).max())))
        features = np.stack([np.ones_like(size), size, elements, squares, elements * elements], axis=1)
        relative = features / observed[:, None]
        weights = self.config.forgetting ** (self._clock - when)
        straight = solve_nonnegative(relative[:, :4], np.ones_like(observed), weights)
        w0, w1, w2, w3 = (float(weight) for weight in straight)
        self._weights = (w0, w1, w2, w3, 0.0)
        if len(samples) < self.config.bend_min_samples:
            return
        bent = solve_nonnegative(relative, np.ones_like(observed), weights)
        if _loss(relative, bent, weights) < (1 - self.config.bend_min_gain) * _loss(relative[:, :4], straight, weights):
            w0, w1, w2, w3, w4 = (float(weight) for weight in bent)
            self._weights = (w0, w1, w2, w3, w4)

    def _follow_drift(self, ratio: float) -> None:
        """Note one observed/predicted ratio; on a lasting shift drop what is older than the shift."""
        self._ratios.append(ratio)
        insort(self._sorted_ratios, ratio)
        if len(self._ratios) > self.config.ratio_window:
            oldest = self._ratios.popleft()
            del self._sorted_ratios[bisect_left(self._sorted_ratios, oldest)]
        drift = self._drift
        drift.level += 0.3 * (math.log(ratio) - drift.level)
        drift.strikes = drift.strikes + 1 if abs(drift.level) > self.config.drift_threshold else 0
        if drift.strikes >= self.config.drift_patience and self._clock > self.config.eager_until:
            self._forget_before(self._clock - self.config.drift_patience)
            self._ratios.clear()
            self._sorted_ratios.clear()
            self._drift = _Drift()

    def _forget_before(self, when: int) -> None:
        for key in list(self._cells):
            kept = deque(sample for sample in self._cells[key] if sample[0] >= when)
            self._num_samples -= len(self._cells[key]) - len(kept)
            if kept:
                self._cells[key] = kept
            else:
                del self._cells[key]
        if self._cells:
            self._refit()

    def _samples(self) -> list[tuple[int, int, int, int, float]]:
        """(batch size, elements, squares, when, seconds) of all that is kept."""
        return [
            (load.batch_size, load.elements, load.squares, when, seconds)
            for cell in self._cells.values()
            for when, load, seconds in cell
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the samples and ratios as JSON-able values."""
        return {
            "clock": self._clock,
            "samples": [list(sample) for sample in self._samples()],
            "ratios": list(self._ratios),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: where the state is not of that form.
        """
        try:
            clock = int(state["clock"])
            samples = [
                (Load(int(b), int(e), int(squares)), int(when), float(s)) for b, e, squares, when, s in state["samples"]
            ]
            ratios = [float(ratio) for ratio in state["ratios"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a latency model's state: {error}") from None
        if not all(0 < value < math.inf for value in (*(seconds for *_, seconds in samples), *ratios)):
            raise ValueError("not a latency model's state: times and ratios must be positive")
        if not all(_possible(load) and 0 <= when <= clock for load, when, _ in samples):
            raise ValueError("not a latency model's state: sizes must be possible, and no sample newer than the clock")
        self._cells.clear()
        self._by_age.clear()
        self._num_samples = len(samples)
        for load, when, seconds in sorted(samples, key=itemgetter(1)):
            kind = load.cell()
            self._cells.setdefault(kind, deque()).append((when, load, seconds))
            self._by_age.append((when, kind))
        self._clock = clock
        self._ratios = deque(ratios[-self.config.ratio_window :])
        self._sorted_ratios = sorted(self._ratios)
        self._drift = _Drift()
        if samples:
            self._refit()


def _possible(load: Load) -> bool:
    """Whether there are items of such sums: the mean of squares is not below the square of the mean."""
    in_range = 0 < load.batch_size < LARGEST and 0 <= load.elements < LARGEST and 0 <= load.squares < LARGEST
    return in_range and load.elements**2 <= load.batch_size * load.squares


def _loss(rows: npt.NDArray[np.float64], solution: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """Weighted squares of the relative errors."""
    return float(weights @ (rows @ solution - 1.0) ** 2)
