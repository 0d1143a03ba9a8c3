"""Batch normalisation in a job: in groups of a fixed size it learns the same however the device was shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from trainable_rig import CLASSES, FEATURES, Driver, Rowwise, spec, trainer

from batchd_server.models.ghost_batch_norm import GhostBatchNorm
from batchd_server.models.trainable import Losses
from batchd_server.training.job_spec import JobSpec

VIRTUAL = 4


class Normalised(torch.nn.Module):
    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = torch.nn.Linear(FEATURES, 8), norm, torch.nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.inner(x).mT  # (B, 8, L)
        normal = self.norm(hidden, mask) if isinstance(self.norm, GhostBatchNorm) else self.norm(hidden)
        return self.outer(torch.tanh(normal.mT))


class NormalisedRows(Rowwise):
    """Rows whose features are normalised over a group. `seen` collects how many examples ran at once."""

    def __init__(self, norm: Callable[[], torch.nn.Module], fault: Callable[[int], bool] = lambda call: False) -> None:
        super().__init__()
        self._norm, self._fault = norm, fault
        self.seen: list[int] = []

    def new_network(self, *, fresh: bool) -> torch.nn.Module:
        return Normalised(self._norm()).double()

    def losses(self, network: torch.nn.Module, batch: Any) -> Losses:
        x, y = batch
        if torch.is_grad_enabled():
            self.seen.append(len(x))
            if self._fault(len(self.seen)):
                raise torch.OutOfMemoryError
        scores = functional.log_softmax(network(x, y >= 0), dim=-1)
        loss = functional.nll_loss(scores.flatten(0, 1), y.flatten(), ignore_index=-1, reduction="sum")
        return Losses(total=loss, terms=float((y >= 0).sum()), correct=int((scores.argmax(-1) == y).sum()))


def ghost() -> torch.nn.Module:
    return GhostBatchNorm(8, VIRTUAL)


def run(job: JobSpec, model: NormalisedRows, units: Callable[[int], int]) -> Driver:
    training = trainer(job, model)
    training.start()
    return Driver(training, units).run()


@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize("initial", [24, 22])  # a last group that is smaller, too
def test_the_cut_changes_nothing(units: int, initial: int) -> None:
    """Up to rounding, running means and the loss curve among it."""
    job = spec(batching={"initial": initial, "min": 8, "max": 64}, optimizer={"name": "sgd", "lr": 0.3})
    whole, cut = NormalisedRows(ghost), NormalisedRows(ghost)
    one, other = run(job, whole, lambda wanted: wanted), run(job, cut, lambda _: units)
    assert max(cut.seen) == units * VIRTUAL < max(whole.seen)
    assert other.losses() == pytest.approx(one.losses(), rel=1e-9)
    for name, tensor in one.weights().items():
        torch.testing.assert_close(other.weights()[name], tensor, rtol=1e-8, atol=1e-9, msg=name)


def test_what_did_not_fit_comes_again_in_whole_groups() -> None:
    job = spec(optimizer={"name": "sgd", "lr": 0.3})
    whole, faulty = NormalisedRows(ghost), NormalisedRows(ghost, fault=lambda call: call % 5 == 2)
    one, other = run(job, whole, lambda wanted: wanted), run(job, faulty, lambda wanted: max(1, wanted // 2))
    assert other.losses() == pytest.approx(one.losses(), rel=1e-9)


def test_a_deterministic_job_is_the_same_to_the_bit() -> None:
    job = spec(deterministic=True)
    for norm in (ghost, lambda: torch.nn.BatchNorm1d(8), lambda: GhostBatchNorm(8, 6)):
        one = run(job, NormalisedRows(norm), lambda wanted: wanted)
        other = run(job, NormalisedRows(norm), lambda _: 1)
        assert one.losses() == other.losses()
        assert all(torch.equal(tensor, other.weights()[name]) for name, tensor in one.weights().items())


def test_the_slices_of_a_deterministic_job_are_whole_groups_even_where_memory_is_short() -> None:
    def short(_call: int) -> bool:
        return model.seen[-1] > 6

    model = NormalisedRows(lambda: GhostBatchNorm(8, 6), fault=short)
    run(spec(deterministic=True), model, lambda wanted: wanted)
    tried = model.seen.index(12)  # eight examples, and as many more as make whole groups
    assert set(model.seen[:tried] + model.seen[tried + 1 :]) == {6}


def test_ordinary_batch_normalisation_is_refused_where_the_cut_varies() -> None:
    with pytest.raises(ValueError, match="layer 'norm' is a BatchNorm1d"):
        trainer(spec(), NormalisedRows(lambda: torch.nn.BatchNorm1d(8)))
