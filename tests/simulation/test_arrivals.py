import random
from itertools import islice

import pytest

from batchd.simulator import Arrival, bimodal_lengths, bursty_arrivals, diurnal_arrivals, lognormal_lengths
from batchd.simulator.arrivals import poisson_arrivals

MAKERS = [poisson_arrivals, bursty_arrivals, diurnal_arrivals]


def arrivals(maker: object, seed: int = 3, rate: float = 100.0, seconds: float = 200.0) -> list[Arrival]:
    rng = random.Random(seed)
    return maker(rng, rate, seconds, lognormal_lengths(rng, 24, 1.0, 2, 256), 0.25)  # type: ignore[operator, no-any-return]


def counts(found: list[Arrival], width: float) -> list[int]:
    bins = [0] * (int(found[-1].time / width) + 1)
    for arrival in found:
        bins[int(arrival.time / width)] += 1
    return bins


@pytest.mark.parametrize("maker", MAKERS)
def test_arrivals_are_in_order_seeded_and_of_the_rate_asked_for(maker: object) -> None:
    found = arrivals(maker)
    times = [arrival.time for arrival in found]
    assert times == sorted(times)
    assert 0 < times[0] <= times[-1] < 200
    assert len(found) == pytest.approx(20_000, rel=0.1)
    assert found == arrivals(maker)
    assert found != arrivals(maker, seed=4)


def test_bursts_vary_more_than_poisson() -> None:
    def dispersion(maker: object) -> float:
        bins = counts(arrivals(maker), 0.5)
        mean = sum(bins) / len(bins)
        return sum((count - mean) ** 2 for count in bins) / len(bins) / mean

    assert dispersion(poisson_arrivals) == pytest.approx(1.0, abs=0.2)
    assert dispersion(bursty_arrivals) > 5


def test_a_day_has_its_peak_in_the_middle() -> None:
    night, morning, noon, evening, late = counts(arrivals(diurnal_arrivals), 40.0)
    assert noon > 2 * night
    assert noon > morning > night
    assert noon > evening > late


def test_lengths_follow_their_law() -> None:
    lognormal = sorted(islice(lognormal_lengths(random.Random(1), 24, 1.0, 2, 256), 10_001))
    assert lognormal[5000] == pytest.approx(24, abs=1)
    assert (lognormal[0], lognormal[-1]) == (2, 256)
    bimodal = list(islice(bimodal_lengths(random.Random(1), 0.85, (8, 16), (150, 256)), 10_000))
    assert sum(length <= 16 for length in bimodal) / 10_000 == pytest.approx(0.85, abs=0.02)
    assert all(8 <= length <= 16 or 150 <= length <= 256 for length in bimodal)
