"""Bounds the peak memory of a batch, from peaks that were measured and from predictions.

For one padded size the peak is a maximum of functions affine in the batch size with non-negative coefficients, hence
convex: between two measured sizes the chord is an upper bound, beyond the largest measured one the proportional
`peak(B0) * B / B0` is, and a straight-line extrapolation is not. Peaks of a shorter item carry over to a longer one by
the square of the ratio of their lengths, and from a longer one by 1.

Predictions made before anything ran are bounds as well. The smaller bound holds, but never less than what a batch was
measured to take that is no larger; and where there are predictions, batches need not grow step by step.

All bytes are over what was resident before the batch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from typing import Any

from batchd.memory_correction import MemoryCorrection
from batchd.memory_prior import MemoryPrior
from batchd.peak_bounds import Peaks, carried_over


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModelConfig:
    """How boldly the memory model extrapolates."""

    growth: int = 2
    """A batch that was never run may be this many times the largest that succeeded."""
    first_batch: int = 2
    """Batch size allowed before anything has run."""
    correction: float = 1.15
    """Bounds are multiplied by this until measured ratios replace it: see `memory_correction`."""
    backoff: float = 0.7
    """Batch size allowed after an out-of-memory error, over the one that failed."""
    free_growth: float = 1.2
    """Headroom must grow by this factor for an out-of-memory bound to be forgotten."""
    max_sizes: int = 512
    """Padded sizes whose peaks are kept; the one measured first goes. Every bound holds without it, less tightly."""
    neighbours: int = 4
    """Measured sizes on either side that a bound is carried over from; all would be right, the near ones are tight."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """A batch that did not fit, or only just: no larger one is tried while headroom stays as it was."""

    batch_size: int
    elements: int
    headroom: int | None
    fitted: bool = False  # only just; then the cell itself stays in bounds


@dataclass(slots=True)
class MemoryModel:
    """Peak memory of one model in one phase."""

    config: MemoryModelConfig = field(default_factory=MemoryModelConfig)
    prior: MemoryPrior = field(default_factory=MemoryPrior)
    """What was foreseen. It is not saved: whoever loads the model predicts anew."""
    _points: dict[int, Peaks] = field(default_factory=dict)  # by padded elements of one item
    _measured: list[int] = field(default_factory=list)  # the keys of _points, sorted
    _succeeded: dict[int, int] = field(default_factory=dict)  # elements -> largest batch size that ran
    _limits: list[_Limit] = field(default_factory=list)
    _cache: dict[tuple[int, int | None, int], int] = field(default_factory=dict)
    _correction: MemoryCorrection = field(init=False)

    def __post_init__(self) -> None:
        self._correction = MemoryCorrection(self.config.correction)

    def foresee(self, batch_size: int, elements: int, peak_bytes: int) -> None:
        """Take a prediction of the peak of a batch that was not run."""
        self.prior.foresee(batch_size, elements, peak_bytes)
        self._cache.clear()

    def observe(self, batch_size: int, elements: int, peak_bytes: int | None) -> None:
        """Learn that a batch ran, and with what peak if that was measured. The largest peak of a cell is kept."""
        if not any(e >= elements and b >= batch_size for e, b in self._succeeded.items()):
            self._succeeded = {e: b for e, b in self._succeeded.items() if e > elements or b > batch_size}
            self._succeeded[elements] = batch_size
            self._cache.clear()
        if peak_bytes is None:
            return
        self._judge(batch_size, elements, peak_bytes)
        points = self._points.get(elements)
        if points is None:
            if len(self._points) >= self.config.max_sizes:
                self._forget(next(iter(self._points)))
            points = self._points[elements] = Peaks()
            insort(self._measured, elements)
        if points.add(batch_size, peak_bytes):
            self._cache.clear()

    def _judge(self, batch_size: int, elements: int, peak_bytes: int) -> None:
        """Compare a peak with its bounds. A cell that ran before corrects itself, and shows only that they hold."""
        if self.prior.judge(batch_size, elements, peak_bytes):
            self._cache.clear()
        bound = self._bound(batch_size, elements)
        if bound is None:
            return
        points = self._points.get(elements)
        known = points is not None and batch_size in points.peaks
        if self._correction.observe(bound, min(peak_bytes, int(bound)) if known else peak_bytes):
            self._cache.clear()

    def observe_out_of_memory(self, batch_size: int, elements: int, headroom: int | None) -> None:
        """Learn that a batch did not fit while `headroom` bytes were thought to be free.

        A single item of a size that has run before does not fit for a reason of its own: what the batches that it was
        aboard seemed to teach is void, lest one item bound all that follow.
        """
        if batch_size == 1 and self.has_run(elements):
            self._limits = [limit for limit in self._limits if limit.elements < elements]
            self._cache.clear()
            return
        self._limits = [
            limit for limit in self._limits if limit.batch_size < batch_size or limit.elements < elements
        ] + [_Limit(batch_size, elements, headroom)]
        self._cache.clear()

    def observe_tight(self, batch_size: int, elements: int, headroom: int | None) -> None:
        """Learn that a batch only just fitted while `headroom` bytes were thought to be free."""
        same = _Limit(batch_size, elements, headroom, fitted=True)
        self._limits = [
            limit
            for limit in self._limits
            if not (limit.fitted and limit.batch_size >= batch_size and limit.elements >= elements)
        ] + [same]
        self._cache.clear()

    def _forget(self, elements: int) -> None:
        del self._points[elements]
        del self._measured[bisect_left(self._measured, elements)]

    def upper_bytes(self, batch_size: int, elements: int) -> int | None:
        """Return bytes that a batch does not exceed, by the laws above; None before any measurement or prediction."""
        bound = self._bound(batch_size, elements)
        foreseen = self.prior.upper_bytes(batch_size, elements)
        if bound is None:
            return None if foreseen is None else int(foreseen)
        measured = bound * self._correction.factor
        if foreseen is None:
            return int(measured)
        return int(max(min(measured, foreseen), self._shown(batch_size, elements)))

    def _bound(self, batch_size: int, elements: int) -> float | None:
        if not self._measured:
            return None
        middle = bisect_left(self._measured, elements)
        nearest = self._measured[max(0, middle - self.config.neighbours) : middle + self.config.neighbours]
        return min(self._points[other].upper(batch_size) * carried_over(elements, other) for other in nearest)

    def _shown(self, batch_size: int, elements: int) -> int:
        """Return the largest peak that was measured of a batch of no more items, nor larger ones."""
        end = bisect_right(self._measured, elements)
        nearest = self._measured[max(0, end - self.config.neighbours) : end]
        return max((self._points[other].lower(batch_size) for other in nearest), default=0)

    def max_batch_size(self, elements: int, headroom: int | None, at_most: int) -> int:
        """Return the largest batch size that may be tried, from 1 to `at_most`.

        A single item is always allowed: only running it can tell that it does not fit.
        """
        key = (elements, headroom, at_most)
        known = self._cache.get(key)
        if known is None:
            if len(self._cache) > 4096:
                self._cache.clear()
            known = self._cache[key] = self._search(elements, headroom, at_most)
        return known

    def largest_single(self, headroom: int | None) -> int | None:
        """Return the elements of the smallest single item known not to fit, or None."""
        sizes = [
            limit.elements
            for limit in self._limits
            if limit.batch_size == 1 and not limit.fitted and not self._outgrown(limit, headroom)
        ]
        return min(sizes, default=None)

    def largest_fit(self, headroom: int | None) -> int | None:
        """Return the elements of the largest single item that has run or is thought to fit; None where nothing has run.

        Above what has run, only sizes below one known not to fit are judged.
        """
        beyond = self.largest_single(headroom)
        ran = [elements for elements in self._succeeded if beyond is None or elements < beyond]
        if not ran:
            return None
        low = max(ran)
        if beyond is None or headroom is None or not self._measured:
            return low
        high = beyond - 1
        while low < high:  # upper_bytes grows with the elements
            middle = (low + high + 1) // 2
            bound = self.upper_bytes(1, middle)
            if bound is not None and bound > headroom:
                high = middle - 1
            else:
                low = middle
        return low

    def _search(self, elements: int, headroom: int | None, at_most: int) -> int:
        foreseen = headroom is not None and bool(self.prior)
        high = at_most if foreseen else min(at_most, self._growth_cap(elements))
        for limit in self._limits:
            if limit.elements <= elements and not self._outgrown(limit, headroom):
                allowed = limit.batch_size if limit.fitted else int(limit.batch_size * self.config.backoff)
                high = min(high, max(1, allowed))
        if headroom is None or (self.upper_bytes(high, elements) or 0) <= headroom:
            return high
        low, high = 1, max(1, high - 1)
        while low < high:  # upper_bytes grows with the batch size
            middle = (low + high + 1) // 2
            bound = self.upper_bytes(middle, elements)
            if bound is not None and bound > headroom:
                high = middle - 1
            else:
                low = middle
        return low

    def _growth_cap(self, elements: int) -> int:
        """What has been shown to run, carried over to `elements`, times the allowed growth."""
        shown = [
            batch_size if other >= elements else int(batch_size * (other / elements) ** 2)
            for other, batch_size in self._succeeded.items()
        ]
        return max(self.config.first_batch, self.config.growth * max(shown, default=0))

    def has_run(self, elements: int) -> bool:
        """Return whether an item of so many elements, or a larger one, has run in any batch."""
        return any(other >= elements for other in self._succeeded)

    def _outgrown(self, limit: _Limit, headroom: int | None) -> bool:
        if limit.headroom is None or headroom is None:
            return False
        return headroom > limit.headroom * self.config.free_growth

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements as JSON-able values. Out-of-memory bounds are of the moment and not kept."""
        return {
            "peaks": [[e, b, peak] for e, points in self._points.items() for b, peak in points.peaks.items()],
            "succeeded": [[e, b] for e, b in self._succeeded.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: where the state is not of that form.
        """
        try:
            peaks = [(int(e), int(b), int(peak)) for e, b, peak in state["peaks"]]
            succeeded = [(int(e), int(b)) for e, b in state["succeeded"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a memory model's state: {error}") from None
        if any(e <= 0 or b <= 0 or peak < 0 for e, b, peak in (*peaks, *((e, b, 0) for e, b in succeeded))):
            raise ValueError("not a memory model's state: sizes must be positive")
        self._points.clear()
        self._measured.clear()
        self._succeeded.clear()
        self._limits.clear()
        self._cache.clear()
        for elements, batch_size in succeeded:
            self.observe(batch_size, elements, None)
        for elements, batch_size, peak in peaks:
            self.observe(batch_size, elements, peak)
