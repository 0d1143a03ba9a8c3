"""The simulated device: its laws of time and memory, and the notations for them."""

import random

import pytest
from controller_rig import item

from batchd import Completed, Controller, LatencyModel, ModelPolicy, RunBatch
from batchd.load import Load
from batchd.simulator import (
    DeviceLaw,
    DeviceMemory,
    Neighbour,
    Slowdown,
    calibrate,
    learned_law,
    parse_memory,
    parse_slowdowns,
)

RNG = random.Random(0)
MEMORY = DeviceMemory(total=1000, per_element=2.0, per_square=0.5, fixed=10, resident=100)


def test_a_batch_takes_what_its_law_says() -> None:
    assert MEMORY.peak_bytes(3, 4) == 10 + 3 * (2 * 4 + 0.5 * 16)
    assert MEMORY.free(0.0) == 900


def test_neighbours_hold_memory_from_one_time_until_another() -> None:
    crowded = DeviceMemory(
        total=1000, per_element=1.0, neighbours=(Neighbour(held=300, begins=2, ends=5), Neighbour(held=900, begins=4))
    )
    assert [crowded.free(now) for now in (0, 2, 3.9, 4, 5)] == [1000, 700, 700, 0, 100]
    reading = crowded.reading(3.0)
    assert (reading.total, reading.device_free, reading.allocated) == (1000, 700, 0)


def test_a_batch_that_does_not_fit_ends_early_with_the_memory_used_up() -> None:
    law = DeviceLaw(fixed=1.0, per_element=0.1, memory=DeviceMemory(total=100, per_element=1.0))
    fits, over = law.run(Load.padded(10, 10), 0.0, RNG), law.run(Load.padded(20, 10), 0.0, RNG)
    assert (fits.fits, fits.peak_bytes, fits.seconds) == (True, 100, 11.0)
    assert (over.fits, over.peak_bytes, over.seconds) == (False, 100, pytest.approx(21.0 / 2))


def test_a_slowdown_counts_from_its_time_on_until_the_next() -> None:
    law = DeviceLaw(fixed=1.0, per_element=0.0, slowdowns=parse_slowdowns(["1:20", "2:10"]))
    assert [law.run(Load.padded(1, 1), now, RNG).seconds for now in (0, 9.9, 10, 19.9, 20)] == [1, 1, 2, 2, 1]


def test_a_learned_law_is_the_latency_models_own_with_its_noise() -> None:
    rng = random.Random(3)
    taught = Controller()
    taught.add_model("m", ModelPolicy(slo_s=1e6))
    for number in range(400):
        taught.offer(item(number, rng.randint(2, 256), deadline=1e9), 0.0)
        if number % rng.randint(1, 8) == 0:
            batch = taught.next(0.0)
            assert isinstance(batch, RunBatch)
            assert batch.padded_shape is not None
            seconds = 2e-3 + 2.4e-4 * len(batch.items) * batch.padded_shape[0]
            seconds *= rng.lognormvariate(0.0, 0.1)
            taught.report(Completed(batch_id=batch.batch_id, seconds=seconds, peak_bytes=None))
    law = learned_law(taught.state_dict("m"))
    assert law.noise == pytest.approx(0.1, rel=0.35)
    for batch_size, elements in ((1, 24), (4, 64), (8, 256)):
        assert law.exact_seconds(batch_size, elements) == pytest.approx(2e-3 + 2.4e-4 * batch_size * elements, rel=0.1)


@pytest.mark.parametrize("state", [{}, {"latency": 3}, {"latency": {}}, {"latency": LatencyModel().state_dict()}])
def test_a_state_that_has_no_law_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not a .* state|no batch has been measured"):
        learned_law(state)


def test_a_controller_that_knows_the_law_predicts_it_before_any_traffic() -> None:
    law = DeviceLaw(fixed=2e-3, per_element=2.4e-4, noise=0.5, memory=DeviceMemory(total=1000, per_element=1.0))
    knowing = Controller()
    knowing.add_model("m", ModelPolicy())
    calibrate(knowing, "m", law, longest=200, max_batch_size=8)
    knowing.offer(item(1, 100), 0.0)
    batch = knowing.next(0.0)
    assert isinstance(batch, RunBatch)
    assert batch.predicted_s == pytest.approx(2e-3 + 100 * 2.4e-4, rel=0.01)


def test_memory_is_read_from_its_notation() -> None:
    assert parse_memory("1e9:2000") == DeviceMemory(total=10**9, per_element=2000.0)
    assert parse_memory("1e9:2000:3:50", ["5e8:10", "1e8:0:3"]) == DeviceMemory(
        total=10**9,
        per_element=2000.0,
        per_square=3.0,
        fixed=50,
        neighbours=(Neighbour(held=5 * 10**8, begins=10.0), Neighbour(held=10**8, begins=0.0, ends=3.0)),
    )


@pytest.mark.parametrize("spec", ["", "1e9", "a:b", "1:2:3:4:5", "1e9:-1", "0:1", "inf:1", "nan:1"])
def test_a_memory_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=r"memory|bytes"):
        parse_memory(spec)


@pytest.mark.parametrize("spec", ["", "1e9", "-1:0", "1:5:5", "1:-1"])
def test_a_neighbour_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="neighbour"):
        parse_memory("1e9:1", [spec])


@pytest.mark.parametrize("specs", [[""], ["2"], ["0:1"], ["2:-1"]])
def test_slowdowns_that_are_none_are_refused(specs: list[str]) -> None:
    with pytest.raises(ValueError, match="slowdown"):
        parse_slowdowns(specs)


def test_slowdowns_follow_one_another() -> None:
    with pytest.raises(ValueError, match="in order of time"):
        DeviceLaw(fixed=1, per_element=0, slowdowns=(Slowdown(begins=2, factor=2), Slowdown(begins=1, factor=1)))
