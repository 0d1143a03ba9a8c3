"""What is taken from tensors: norms through hooks, entropies, and what online selection sees of a network."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from batchd.gradient_noise import from_microbatches
from batchd.schedules import Bounds, CandidateLoss, StepStats, make_schedule
from batchd.torch_gradients import GradientHooks, prediction_entropy, squared_norm

SIZES = [5, 3, 8, 8]


class Tied(nn.Module):
    """Uses one weight twice, and has a parameter that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.outer = nn.Linear(6, 1)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(torch.tanh(self.inner(x))))).squeeze(-1)


def problem() -> tuple[Tied, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return Tied().double(), torch.randn(sum(SIZES), 6).double(), torch.randn(sum(SIZES)).double()


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
def test_hooks_see_what_stored_gradients_hold(loss_scale: float) -> None:
    model, x, y = problem()
    hooks = GradientHooks(model.parameters())
    stored = []
    for part_x, part_y in zip(x.split(SIZES), y.split(SIZES), strict=True):
        share = len(part_x) / len(x)
        loss = (model(part_x) - part_y).square().mean()
        stored.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
        with hooks.microbatch(weight=len(part_x), share=share):
            ((model(part_x) - part_y).square().mean() * share * loss_scale).backward()
    norms2 = [float(squared_norm(gradients)) for gradients in stored]
    means = [
        sum(size * gradient for size, gradient in zip(SIZES, same, strict=True)) / len(x)
        for same in zip(*stored, strict=True)
        if same[0] is not None
    ]
    expected = from_microbatches(norms2, SIZES, float(squared_norm(means)), population=100)
    found = hooks.sample(population=100, loss_scale=loss_scale)
    assert found is not None
    assert pytest.approx(expected.S, rel=1e-10) == found.S
    assert found.g2 == pytest.approx(expected.g2, rel=1e-10)
    hooks.close()


def test_a_microbatch_that_failed_is_not_counted_and_one_is_no_sample() -> None:
    model, x, y = problem()
    hooks = GradientHooks(model.parameters())

    def fails() -> None:
        with hooks.microbatch(weight=4, share=0.5):
            (model(x) - y).square().mean().backward()
            raise RuntimeError("device")

    with pytest.raises(RuntimeError, match="device"):
        fails()
    with hooks.microbatch(weight=4, share=0.5):
        (model(x) - y).square().mean().backward()
    assert hooks.sample() is None
    for _ in range(3):
        with hooks.microbatch(weight=4, share=0.5):
            (model(x) - y).square().mean().backward()
    hooks.discard()
    assert hooks.sample() is None
    with pytest.raises(ValueError, match="positive"), hooks.microbatch(weight=0, share=0.5):
        pass
    hooks.close()


def test_closed_hooks_see_nothing() -> None:
    model, x, y = problem()
    hooks = GradientHooks(model.parameters())
    hooks.close()
    for _ in range(2):
        with hooks.microbatch(weight=1, share=0.5):
            (model(x) - y).square().mean().backward()
    sample = hooks.sample()
    assert sample is not None
    assert sample.S < 0  # the microbatches' norms are 0, that of `.grad` is not


def test_squares_are_summed_in_double_precision() -> None:
    parts = [torch.full((1000,), 1e-3, dtype=torch.float32), None, torch.full((1,), 6e4, dtype=torch.float16)]
    exact = 1000 * float(torch.tensor(1e-3)) ** 2 + float(torch.tensor(6e4, dtype=torch.float16)) ** 2
    assert float(squared_norm(parts)) == pytest.approx(exact, rel=1e-14)
    assert float(squared_norm([None])) == 0.0
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([1.0, 2.0]), (4,), check_invariants=False)
    assert float(squared_norm([sparse])) == 9.0


def test_the_entropy_of_logits() -> None:
    classes = 7
    assert float(prediction_entropy(torch.zeros(classes))) == pytest.approx(math.log(classes))
    a = 1.3
    p = 1 / (1 + math.exp(-a))
    assert float(prediction_entropy(torch.tensor([a, 0.0], dtype=torch.float64))) == pytest.approx(
        -p * math.log(p) - (1 - p) * math.log(1 - p)
    )
    logits = torch.randn(5, 4, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    entropy = prediction_entropy(logits)
    assert entropy.shape == (5, 4)
    torch.testing.assert_close(prediction_entropy(logits + 100.0), entropy)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits).entropy())
    certain = prediction_entropy(torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]]))
    assert certain.tolist() == pytest.approx([0.0, math.log(3)], abs=1e-3)
    masked = prediction_entropy(torch.tensor([0.0, 0.0, -math.inf]))
    assert float(masked) == pytest.approx(math.log(2))
    assert prediction_entropy(torch.zeros(3, dtype=torch.float16)).dtype == torch.float32


def averages(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[int, float]:
    """The mean of the losses of one, two and four equal batches of the same pool, in training mode."""
    with torch.no_grad():
        return {
            size: float(
                torch.stack(
                    [nn.functional.mse_loss(model(a), b) for a, b in zip(x.split(size), y.split(size), strict=True)]
                ).mean()
            )
            for size in (256, 128, 64)
        }


def net(*, normalised: bool) -> nn.Module:
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm1d(16)] if normalised else []
    return nn.Sequential(nn.Linear(8, 16), *middle, nn.Tanh(), nn.Linear(16, 1)).double()


def pool() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(256, 8, dtype=torch.float64, generator=generator),
        torch.randn(256, 1, dtype=torch.float64, generator=generator),
    )


def chosen(losses: dict[int, float]) -> float:
    candidates = tuple(CandidateLoss(size, loss) for size, loss in losses.items())
    given = StepStats(step=0, examples=0, epoch=0.0, train_size=1, batch_size=64, candidates=candidates)
    return make_schedule("online_selection", {}, Bounds(8, 256)).propose(given).target


def test_online_selection_has_nothing_to_choose_from_without_batch_normalisation() -> None:
    losses = averages(net(normalised=False), *pool())
    assert max(losses.values()) - min(losses.values()) < 1e-12
    assert chosen(losses) == 256


def test_batch_normalisation_is_what_online_selection_chooses_by() -> None:
    losses = averages(net(normalised=True), *pool())
    assert max(losses.values()) - min(losses.values()) > 1e-4
    assert chosen(losses) == min(losses, key=lambda size: losses[size])


def test_four_small_steps_at_a_quarter_of_the_rate_are_one_to_first_order() -> None:
    """The gap goes with the square of the rate: half the rate, a quarter of it."""
    x, y = pool()

    def trained(size: int, lr: float) -> torch.Tensor:
        model = net(normalised=False)
        for a, b in zip(x.split(size), y.split(size), strict=True):
            gradients = torch.autograd.grad(nn.functional.mse_loss(model(a), b), list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.sub_(lr * size / 256 * gradient)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    gaps = [float((trained(256, lr) - trained(64, lr)).norm()) for lr in (0.1, 0.05, 0.025)]
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.05)


def test_the_rest_of_the_library_needs_no_torch() -> None:
    code = (
        "import sys, batchd, batchd.governor, batchd.gradient_noise, batchd.lr_rules, batchd.schedules\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
