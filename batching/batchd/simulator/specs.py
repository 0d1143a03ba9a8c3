"""The short notations of `batchd simulate`, and what they stand for."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from batchd.baselines import AdditiveIncrease, FixedBuckets, FixedWindow, TotalTime
from batchd.controller import Controller
from batchd.policy import ModelPolicy
from batchd.scheduler import Scheduler
from batchd.simulator.arrivals import bimodal_lengths, lognormal_lengths
from batchd.simulator.simulation import MODEL, DeviceLaw

POLICIES = ("adaptive", "window:MS:SIZE", "buckets:EDGE,EDGE,...:MS:SIZE", "aimd", "total-time")
LENGTHS = ("lognormal:MEDIAN:SIGMA:LOW:HIGH", "bimodal:SHARE:LOW:HIGH:LOW:HIGH", "fixed:LENGTH")
COST = "FIXED_S:PER_TOKEN_S[:SQUARE_LENGTH[:TOKENS_CHARGED_AT_LEAST]]"


def parse_lengths(spec: str, rng: random.Random) -> Iterator[int]:
    """Return the lengths that `spec` describes, without end.

    Raises:
        ValueError: not one of `LENGTHS`.
    """
    kind, *numbers = spec.split(":")
    try:
        match kind, [float(number) for number in numbers]:
            case "lognormal", [median, sigma, low, high] if median > 0 and sigma >= 0 and 1 <= low <= high:
                return lognormal_lengths(rng, median, sigma, int(low), int(high))
            case "bimodal", [share, a, b, c, d] if 0 <= share <= 1 and 1 <= a <= b and 1 <= c <= d:
                return bimodal_lengths(rng, share, (int(a), int(b)), (int(c), int(d)))
            case "fixed", [length] if length >= 1:
                return bimodal_lengths(rng, 1.0, (int(length), int(length)), (1, 1))
            case _:
                pass
    except ValueError:
        pass  # not numbers: said below
    raise ValueError(f"lengths {spec!r} are not one of {', '.join(LENGTHS)}")


def parse_cost(spec: str, noise: float = 0.0) -> DeviceLaw:
    """Return the law of time that `spec` describes.

    Raises:
        ValueError: not of the form of `COST`, or figures that are no cost.
    """
    try:
        numbers = [float(number) for number in spec.split(":")]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= 4:
        raise ValueError(f"cost {spec!r} is not of the form {COST}")
    fixed, per_element, square_length, charged = numbers + [0.0] * (4 - len(numbers))
    return DeviceLaw(
        fixed=fixed,
        per_element=per_element,
        square_length=square_length or math.inf,
        charged_at_least=int(charged),
        noise=noise,
    )


def parse_policy(spec: str, *, slo_s: float, max_batch_size: int) -> Callable[[], Scheduler]:
    """Return a maker of the schedulers that `spec` describes.

    Raises:
        ValueError: not one of `POLICIES`.
    """
    try:
        match spec.split(":"):
            case ["adaptive"]:
                return lambda: _controller(slo_s, max_batch_size)
            case ["window", window_ms, size]:
                window_s, num_items = float(window_ms) / 1e3, int(size)
                return lambda: FixedWindow(window_s, num_items)
            case ["buckets", listed, window_ms, size]:
                edges = tuple(int(edge) for edge in listed.split(","))
                window_s, num_items = float(window_ms) / 1e3, int(size)
                return lambda: FixedBuckets(edges, window_s, num_items)
            case ["aimd"]:
                return lambda: AdditiveIncrease(slo_s, max_batch_size)
            case ["total-time"]:
                return lambda: TotalTime(max_batch_size)
            case _:
                pass
    except ValueError:
        pass  # not numbers: said below
    raise ValueError(f"policy {spec!r} is not one of {', '.join(POLICIES)}")


def _controller(slo_s: float, max_batch_size: int) -> Controller:
    controller = Controller()
    controller.add_model(MODEL, ModelPolicy(slo_s=slo_s, max_batch_size=max_batch_size, max_queue_size=10**6))
    return controller
