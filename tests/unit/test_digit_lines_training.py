"""The digit reader as something that is trained: its examples, its losses, its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchd.sampler import plan_microbatches
from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.digit_lines.line_examples import LineExamples, scan_examples
from batchd_server.models.digit_lines.scans import split_scans
from batchd_server.models.trainable import DatasetFiles, ExampleSet, Losses, Trainable

CPU = torch.device("cpu")
BUILT_IN = DatasetFiles(name="digit-lines", format="builtin", path=None)


@pytest.fixture(scope="module")
def model() -> DigitLines:
    return DigitLines()


@pytest.fixture(scope="module")
def examples() -> LineExamples:
    return scan_examples()


@pytest.fixture(scope="module")
def network(model: DigitLines) -> torch.nn.Module:
    torch.manual_seed(3)
    return model.new_network(fresh=True).double()


def losses(
    model: DigitLines, network: torch.nn.Module, examples: LineExamples, indices: Sequence[int], width: int
) -> tuple[Losses, list[torch.Tensor]]:
    """Return a microbatch's losses in float64, where sums cannot hide an error, and its gradients."""
    batch = examples.batch(indices, (width,), CPU)
    batch = replace(batch, images=batch.images.double())
    found = model.losses(network, batch)
    return found, list(torch.autograd.grad(found.total, list(network.parameters())))


def test_it_is_trainable(model: DigitLines, examples: LineExamples) -> None:
    assert isinstance(model, Trainable)
    assert model.task.kind == "classification"
    assert model.task.num_classes == 10
    opened: ExampleSet = model.examples(BUILT_IN)
    np.testing.assert_array_equal(opened.sizes, examples.sizes)


def test_lines_vary_in_length_and_are_whole_digits(examples: LineExamples) -> None:
    assert set((examples.sizes // 8).tolist()) == set(range(1, 33))
    np.testing.assert_array_equal(examples.sizes, examples.terms * 8)


def test_validation_reads_every_held_out_scan_once(examples: LineExamples) -> None:
    held_out = split_scans()[1]
    validation = examples.validation
    assert validation is not None
    batch = examples.batch(validation.tolist(), (256,), CPU)
    cells = batch.images.reshape(len(validation), 8, 32, 8).permute(0, 2, 1, 3)[batch.labels >= 0]
    assert sorted(cell.numpy().tobytes() for cell in cells) == sorted(image.tobytes() for image in held_out.images)
    assert examples.terms[validation].sum() == len(held_out.labels)


def test_the_same_arguments_give_the_same_batch(examples: LineExamples) -> None:
    first, second = examples.batch([5, 0, 9], (256,), CPU), scan_examples().batch([5, 0, 9], (256,), CPU)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.mask is not None
    assert second.mask is not None
    assert torch.equal(first.mask, second.mask)


def test_a_batch_without_padding_has_no_mask(examples: LineExamples) -> None:
    alike = np.flatnonzero(examples.sizes == 32)[:3].tolist()
    assert examples.batch(alike, (32,), CPU).mask is None
    assert examples.batch(alike, (33,), CPU).mask is not None


@settings(deadline=None, max_examples=15)
@given(
    indices=st.lists(st.integers(0, 2092), min_size=1, max_size=6, unique=True),
    most=st.integers(1, 4),
    extra=st.integers(0, 40),
)
def test_any_cut_into_microbatches_sums_to_the_same(
    model: DigitLines,
    network: torch.nn.Module,
    examples: LineExamples,
    indices: list[int],
    most: int,
    extra: int,
) -> None:
    """Neither the company of other lines nor padding, whole digits or not, changes a loss or its gradient."""
    sizes = examples.sizes[indices]
    whole, whole_gradients = losses(model, network, examples, indices, int(sizes.max()))
    parts = [
        losses(model, network, examples, [indices[place] for place in plan.indices], plan.padded_shape[0] + extra)
        for plan in plan_microbatches(sizes, lambda _shape: most)
    ]
    found = [part for part, _ in parts]
    assert sum(part.terms for part in found) == whole.terms == examples.terms[indices].sum()
    assert sum(part.correct or 0 for part in found) == whole.correct
    assert sum(part.total.item() for part in found) == pytest.approx(whole.total.item(), rel=1e-10)
    assert sum(part.entropy or 0 for part in found) == pytest.approx(whole.entropy, rel=1e-10)
    for index, gradient in enumerate(whole_gradients):
        summed = torch.stack([gradients[index] for _, gradients in parts]).sum(dim=0)
        torch.testing.assert_close(summed, gradient, rtol=1e-8, atol=1e-9)


def test_a_network_that_knows_nothing_is_undecided(
    model: DigitLines, network: torch.nn.Module, examples: LineExamples
) -> None:
    blind = model.new_network(fresh=True).double()
    for parameter in blind.parameters():
        torch.nn.init.zeros_(parameter)
    found, _ = losses(model, blind, examples, [0, 1, 2], 256)
    assert found.total.item() == pytest.approx(found.terms * np.log(10))
    assert found.entropy == pytest.approx(found.terms)


def test_fresh_weights_follow_from_the_random_state_and_the_others_come_along(model: DigitLines) -> None:
    def fresh(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        weight: torch.Tensor = model.new_network(fresh=True).state_dict()["classify.weight"]
        return weight

    assert torch.equal(fresh(1), fresh(1))
    assert not torch.equal(fresh(1), fresh(2))
    shipped = model.build().state_dict()
    assert all(
        torch.equal(tensor, shipped[name]) for name, tensor in model.new_network(fresh=False).state_dict().items()
    )


def test_a_model_that_begins_fresh_knows_nothing_and_is_the_same_in_every_process() -> None:
    torch.manual_seed(5)
    model = DigitLines(weights="fresh")
    begun = model.build().state_dict()
    state = torch.get_rng_state()
    torch.manual_seed(6)
    again = DigitLines(weights="fresh").new_network(fresh=False).state_dict()
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state()), "others draw the same numbers"
    shipped = DigitLines().build().state_dict()
    for name, tensor in begun.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, shipped[name])
    with pytest.raises(ValueError, match="shipped, fresh"):
        DigitLines(weights="none")  # type: ignore[arg-type]


def test_adopted_weights_are_served_and_wrong_ones_change_nothing() -> None:
    model = DigitLines()
    model.load(CPU)
    torch.manual_seed(0)
    fresh = model.new_network(fresh=True).state_dict()
    model.adopt(fresh)
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in model.network.state_dict().items())

    first, *others = fresh
    wrong = {
        "lack": {name: fresh[name] for name in others},
        "has not": {**fresh, "extra": torch.zeros(1)},
        "must have shape": {**fresh, others[-1]: torch.zeros(3), first: torch.zeros_like(fresh[first])},
    }
    for message, weights in wrong.items():
        with pytest.raises(ValueError, match=message):
            model.adopt(weights)
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in model.network.state_dict().items())


def test_another_built_in_dataset_is_refused(model: DigitLines) -> None:
    with pytest.raises(ValueError, match="digit-lines"):
        model.examples(DatasetFiles(name="faces", format="builtin", path=None))


def test_training_runs_under_deterministic_algorithms(model: DigitLines, examples: LineExamples) -> None:
    """Bit for bit, twice."""

    def trained() -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = model.new_network(fresh=True)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for begin in range(0, 24, 8):
            indices = list(range(begin, begin + 8))
            found = model.losses(network, examples.batch(indices, (256,), CPU))
            optimizer.zero_grad()
            (found.total / found.terms).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return [parameter.detach() for parameter in network.parameters()]

    torch.use_deterministic_algorithms(True)
    try:
        first, second = trained(), trained()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
