"""The short notations of `batchd simulate`, and what they stand for."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from batchd.baselines import ADAPTIVE, parse_rule
from batchd.controller import Controller
from batchd.leasing.demand import TrainingPolicy
from batchd.policy import Layout, ModelPolicy
from batchd.scheduler import Scheduler
from batchd.simulator.arrivals import bimodal_lengths, lognormal_lengths
from batchd.simulator.device_law import DeviceLaw
from batchd.simulator.simulation import MODEL
from batchd.simulator.training_law import TrainingLaw

RAGGED = "adaptive:ragged"
"""The controller for a model that takes its items end to end: padding costs nothing, because there is none."""
LENGTHS = ("lognormal:MEDIAN:SIGMA:LOW:HIGH", "bimodal:SHARE:LOW:HIGH:LOW:HIGH", "fixed:LENGTH")
TRAINING = "FIXED_S:PER_ITEM_S"
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


def parse_training(spec: str, noise: float = 0.0) -> TrainingLaw:
    """Return the law of a training job's microbatches that `spec` describes.

    Raises:
        ValueError: not of the form of `TRAINING`, or figures that are no cost.
    """
    try:
        fixed, per_item = (float(number) for number in spec.split(":"))
    except ValueError:
        raise ValueError(f"training cost {spec!r} is not of the form {TRAINING}") from None
    return TrainingLaw(fixed=fixed, per_item=per_item, noise=noise)


def parse_policy(
    spec: str,
    *,
    slo_s: float,
    max_batch_size: int,
    prepare: Callable[[Controller], None] | None = None,
    training: TrainingPolicy | None = None,
) -> Callable[[], Scheduler]:
    """Return a maker of the schedulers that `spec` describes.

    `prepare` tells a controller what it is to know at once, `training` what it may lend of the device.

    Raises:
        ValueError: not `RAGGED`, and not one of `batchd.baselines.POLICIES`.
    """
    if spec in {ADAPTIVE, RAGGED}:
        layout = Layout.RAGGED if spec == RAGGED else Layout.PADDED
        policy = ModelPolicy(slo_s=slo_s, max_batch_size=max_batch_size, max_queue_size=10**6, layout=layout)
        return lambda: _controller(policy, prepare, training)
    try:
        return parse_rule(spec, slo_s=slo_s, max_batch_size=max_batch_size)
    except ValueError as error:
        raise ValueError(f"{error}, {RAGGED}") from None


def _controller(
    policy: ModelPolicy, prepare: Callable[[Controller], None] | None, training: TrainingPolicy | None
) -> Controller:
    controller = Controller(training_policy=training)
    controller.add_model(MODEL, policy)
    if prepare is not None:
        prepare(controller)
    return controller
