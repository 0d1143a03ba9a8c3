import pytest

from batchd import MemoryModel, MemoryModelConfig


def peak(batch_size: int, elements: int) -> int:
    """A peak as networks have it: the largest of several affine functions of the batch size."""
    return max(1000 * batch_size * elements, 40 * batch_size * elements**2, 5_000_000 + 200 * batch_size * elements)


def measured(*cells: tuple[int, int]) -> MemoryModel:
    model = MemoryModel()
    for batch_size, elements in cells:
        model.observe(batch_size, elements, peak(batch_size, elements))
    return model


def test_it_knows_nothing_before_the_first_batch_and_starts_small() -> None:
    model = MemoryModel()
    assert model.upper_bytes(1, 8) is None
    assert model.max_batch_size(8, 10**12, 64) == model.config.first_batch


def test_bounds_hold_for_cells_that_were_never_run() -> None:
    model = measured((1, 16), (8, 16), (2, 64))
    for batch_size in range(1, 65):
        for elements in (16, 32, 64, 128, 256):
            bound = model.upper_bytes(batch_size, elements)
            assert bound is not None
            assert bound >= peak(batch_size, elements)


def test_a_never_run_cell_grows_at_most_twofold() -> None:
    model = measured((4, 32))
    assert model.max_batch_size(32, 10**15, 64) == 8
    assert model.max_batch_size(16, 10**15, 64) == 8
    assert model.max_batch_size(64, 10**15, 64) == 2


def test_headroom_bounds_the_batch() -> None:
    model = measured((16, 32), (32, 32))
    headroom = 8_000_000
    allowed = model.max_batch_size(32, headroom, 64)
    bound, beyond = model.upper_bytes(allowed, 32), model.upper_bytes(allowed + 1, 32)
    assert bound is not None
    assert beyond is not None
    assert bound <= headroom < beyond


def test_a_single_item_is_always_tried() -> None:
    assert measured((1, 32)).max_batch_size(32, 1, 64) == 1


def test_out_of_memory_bounds_the_cell_and_all_larger_ones_until_memory_grows() -> None:
    model = measured((32, 32), (32, 64))
    model.observe_out_of_memory(20, 64, headroom=10**9)
    assert model.max_batch_size(64, 10**9, 64) == 14
    assert model.max_batch_size(128, 10**9, 64) <= 14
    assert model.max_batch_size(32, 10**9, 64) > 14
    assert model.max_batch_size(64, 2 * 10**9, 64) > 14


def test_an_item_that_fails_alone_is_remembered() -> None:
    model = MemoryModel()
    model.observe_out_of_memory(1, 512, headroom=10**9)
    assert model.largest_single(10**9) == 512
    assert model.largest_single(2 * 10**9) is None


def test_the_largest_peak_of_a_cell_counts() -> None:
    model = MemoryModel(MemoryModelConfig(correction=1.0))
    model.observe(2, 8, 100)
    model.observe(2, 8, 300)
    model.observe(2, 8, 200)
    assert model.upper_bytes(2, 8) == 300


def test_successes_without_a_measurement_still_let_batches_grow() -> None:
    model = MemoryModel()
    sizes = []
    for _ in range(6):
        sizes.append(model.max_batch_size(8, None, 64))
        model.observe(sizes[-1], 8, None)
    assert sizes == [2, 4, 8, 16, 32, 64]


def test_state_survives_a_restart() -> None:
    model, copy = measured((4, 32), (8, 64)), MemoryModel()
    copy.load_state_dict(model.state_dict())
    assert copy.upper_bytes(16, 64) == model.upper_bytes(16, 64)
    assert copy.max_batch_size(64, None, 64) == model.max_batch_size(64, None, 64)


@pytest.mark.parametrize("state", [{}, {"peaks": [[1]], "succeeded": []}, {"peaks": [["a", 1, 1]], "succeeded": []}])
def test_a_broken_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a memory model's state"):
        MemoryModel().load_state_dict(state)


def test_an_item_that_fails_alone_though_its_size_has_run_bounds_nobody_else() -> None:
    model = measured((8, 32))
    for batch_size in (8, 5, 3, 2, 1):  # a batch around it is split until it stands alone
        model.observe_out_of_memory(batch_size, 32, 10**9)
    assert model.largest_single(10**9) is None
    assert model.max_batch_size(32, 10**9, 64) == 16


def test_peaks_of_ever_new_sizes_do_not_pile_up_and_the_bounds_still_hold() -> None:
    model = measured(*((2, elements) for elements in range(1, 2001)))
    assert len(model.state_dict()["peaks"]) <= model.config.max_sizes
    for elements in (1, 700, 2000):
        bound = model.upper_bytes(2, elements)
        assert bound is not None
        assert bound >= peak(2, elements)
