"""What the fuzzer begins with is valid, and what it once found stays mended. `make fuzz` looks for more."""

from __future__ import annotations

import pytest
from fuzz_targets import NAMES, Seed, case, decode_case, run_case, seeds
from hypothesis import given
from hypothesis import strategies as st

from batchd_server.errors import ServingError

SEEDS = seeds()


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_seeds_are_decoded(seed: Seed) -> None:
    decode_case(seed.data)


@given(st.sampled_from(SEEDS), st.integers(0, 2**16), st.integers(0, 255))
def test_a_seed_with_one_byte_changed_is_decoded_or_refused(seed: Seed, position: int, value: int) -> None:
    damaged = bytearray(seed.data)
    damaged[position % len(damaged)] = value
    run_case(bytes(damaged))


@pytest.mark.parametrize(
    "shape", [[2**40], [2**20, 2**20], [0, 2**62], [1, 2**62], [1] * 33, [2**31, 2**31, 2**31], [0] * 32]
)
@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "BOOL"])
def test_a_declared_shape_allocates_nothing(shape: list[int], datatype: str) -> None:
    document = b'{"inputs":[{"name":"x","datatype":"%s","shape":%s,"parameters":{"binary_data_size":0}}]}' % (
        datatype.encode(),
        str(shape).encode(),
    )
    with pytest.raises(ServingError):
        decode_case(case(f"identity-{datatype.lower()}", document, length=len(document)))


def test_every_decoder_is_among_the_seeds() -> None:
    chosen = {seed.data[0] for seed in SEEDS}
    assert chosen >= set(range(len(NAMES)))
    assert len(chosen) == len(NAMES) + 3


def test_what_is_no_answer_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("a defect")

    monkeypatch.setattr("batchd_server.front.oip.request.decode_binary", broken)
    with pytest.raises(IndexError):
        run_case(next(seed for seed in SEEDS if seed.name == "two-inputs").data)
