"""Length distributions: how large the variable axes of the requests are.

Specs: `lognormal:MEDIAN:SIGMA:LOW:HIGH`, `uniform:LOW:HIGH`, `fixed:N`, `bimodal:P:LO1:HI1:LO2:HI2` (with probability P
uniform in the first range, else in the second) and `file:PATH` with one length per line. Bounds are inclusive.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]

SPECS = "lognormal:MEDIAN:SIGMA:LOW:HIGH, uniform:LOW:HIGH, fixed:N, bimodal:P:LO1:HI1:LO2:HI2 or file:PATH"


class Lengths(Protocol):
    """A distribution over positive lengths."""

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw `count` lengths."""
        ...


def _check_range(low: int, high: int) -> None:
    if not 1 <= low <= high:
        raise ValueError(f"a range needs 1 <= LOW <= HIGH, got {low} and {high}")


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Log-normal around `median`, clipped into [low, high]."""

    median: float
    sigma: float
    low: int
    high: int

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        if not self.median > 0 or not self.sigma >= 0:
            raise ValueError(f"lognormal needs MEDIAN > 0 and SIGMA >= 0, got {self.median} and {self.sigma}")

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw `count` lengths."""
        drawn = rng.lognormal(np.log(self.median), self.sigma, count)
        return np.clip(np.rint(drawn), self.low, self.high).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every length in [low, high] alike; `fixed:N` is one with equal bounds."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw `count` lengths."""
        return rng.integers(self.low, self.high + 1, count)


@dataclass(frozen=True, slots=True)
class Bimodal:
    """With `probability` from the first range, else from the second."""

    probability: float
    first: Uniform
    second: Uniform

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"bimodal needs a probability in [0, 1], got {self.probability}")

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw `count` lengths."""
        of_first = rng.random(count) < self.probability
        return np.where(of_first, self.first.sample(rng, count), self.second.sample(rng, count))


@dataclass(frozen=True, slots=True)
class Observed:
    """Lengths seen elsewhere, drawn with replacement."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values or min(self.values) < 1:
            raise ValueError("needs at least one length, all of them positive")

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw `count` lengths."""
        return rng.choice(np.asarray(self.values, dtype=np.int64), count)


@dataclass(frozen=True, slots=True)
class Stepped:
    """Another distribution, rounded up to multiples of `step`: for axes that only take certain sizes."""

    inner: Lengths
    step: int

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"length step must be at least 1, got {self.step}")

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw `count` lengths."""
        return -(-self.inner.sample(rng, count) // self.step) * self.step


def parse_lengths(spec: str, *, step: int = 1) -> Lengths:
    """Parse a spec as the module describes.

    Raises:
        ValueError: in one line that names the spec and what is allowed.
    """
    try:
        lengths = _parse(spec)
        return lengths if step == 1 else Stepped(lengths, step)
    except (ValueError, OSError) as error:
        raise ValueError(f"lengths {spec!r}: {error}") from error


def _parse(spec: str) -> Lengths:
    kind, _, rest = spec.partition(":")
    fields = rest.split(":")
    match kind, len(fields):
        case "file", _:
            return Observed(tuple(int(line) for line in Path(rest).read_text("utf-8").split()))
        case "fixed", 1:
            return Uniform(int(rest), int(rest))
        case "uniform", 2:
            return Uniform(int(fields[0]), int(fields[1]))
        case "lognormal", 4:
            return LogNormal(float(fields[0]), float(fields[1]), int(fields[2]), int(fields[3]))
        case "bimodal", 5:
            low, high = Uniform(int(fields[1]), int(fields[2])), Uniform(int(fields[3]), int(fields[4]))
            return Bimodal(float(fields[0]), low, high)
        case _:
            raise ValueError(f"allowed are {SPECS}")
