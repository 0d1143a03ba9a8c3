"""Ghost batch normalisation: the cut into microbatches changes nothing; within a group it is torch's own."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchd_server.models.ghost_batch_norm import GhostBatchNorm, microbatch_multiple, with_ghost_batch_norm

CHANNELS = 3
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def values(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(virtual_size: int, momentum: float = 0.1) -> GhostBatchNorm:
    made = GhostBatchNorm(CHANNELS, virtual_size, momentum=momentum).double()
    with torch.no_grad():
        made.weight.copy_(values(CHANNELS, seed=2))
        made.bias.copy_(values(CHANNELS, seed=3))
    return made


def gradients(norm: GhostBatchNorm, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of something that is not the same for all outputs alike."""
    loss = torch.cat([out.flatten(1).square().sum(dim=1).sin() for out in outputs]).sum()
    return list(torch.autograd.grad(loss, list(norm.parameters())))


@settings(deadline=None, max_examples=40)
@given(
    virtual_size=st.integers(1, 5),
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    rest=st.booleans(),
    masked=st.booleans(),
)
def test_no_cut_at_multiples_changes_anything(virtual_size: int, counts: list[int], rest: bool, masked: bool) -> None:
    """Outputs and running means to the bit; gradients, which are summed in another order, up to rounding."""
    sizes = [count * virtual_size for count in counts]
    sizes[-1] += rest  # the last group of all may be smaller
    x = values(sum(sizes), CHANNELS, 7)
    mask = values(sum(sizes), 7, seed=4) > -1.5 if masked else None
    whole, cut = layer(virtual_size), layer(virtual_size)
    out = whole(x, mask)
    masks = [None] * len(sizes) if mask is None else mask.split(sizes)
    parts = [cut(part, own) for part, own in zip(x.split(sizes), masks, strict=True)]
    assert torch.equal(torch.cat(parts), out)
    for name in BUFFERS:
        assert torch.equal(getattr(cut, name), getattr(whole, name))
    for one, other in zip(gradients(cut, parts), gradients(whole, [out]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_ordinary_batch_normalisation_does_depend_on_the_cut() -> None:
    """Otherwise this module would have no reason, and the test above could not fail."""
    x = values(8, CHANNELS, 7)
    ordinary = torch.nn.BatchNorm1d(CHANNELS).double()
    parts = torch.cat([ordinary(part) for part in x.split(4)])
    assert not torch.allclose(parts, ordinary(x))


@pytest.mark.parametrize("shape", [(6, CHANNELS), (6, CHANNELS, 5), (6, CHANNELS, 4, 5)])
def test_one_group_is_torch_s_own(shape: tuple[int, ...]) -> None:
    """Results, running means and the gradient of the input; and with a mask that masks nothing as well."""
    kind = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)]
    for mask in (None, torch.ones(shape[0], *shape[2:], dtype=torch.bool)):
        ghost, ordinary = layer(6), kind(CHANNELS).double()
        ordinary.load_state_dict(ghost.state_dict())
        x, y = values(*shape).requires_grad_(), values(*shape).requires_grad_()
        ours, theirs = ghost(x, mask), ordinary(y)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        for name in BUFFERS:
            torch.testing.assert_close(getattr(ghost, name), getattr(ordinary, name), rtol=1e-12, atol=1e-12)
        (mine,), (its,) = (torch.autograd.grad(out.sin().sum(), into) for out, into in ((ours, x), (theirs, y)))
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(ghost.eval()(x), ordinary.eval()(y), rtol=1e-12, atol=1e-12)


def test_what_is_padded_takes_no_part() -> None:
    x = values(4, CHANNELS, 5)
    padded = torch.cat((x, torch.full((4, CHANNELS, 3), 1e6, dtype=torch.float64)), dim=2)
    mask = torch.arange(8).expand(4, 8) < 5
    plain, masked = layer(2), layer(2)
    torch.testing.assert_close(masked(padded, mask)[:, :, :5], plain(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(masked.running_mean, plain.running_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(masked.running_var, plain.running_var, rtol=1e-12, atol=1e-12)


def test_a_group_without_variance_is_normalised_by_the_running_means() -> None:
    x, norm, pair = values(3, CHANNELS).requires_grad_(), layer(2), layer(2)
    out = norm(x)
    first = pair(x[:2])
    assert torch.equal(out[:2], first)
    assert torch.equal(norm.running_mean, pair.running_mean)
    torch.testing.assert_close(out[2:], pair.eval()(x[2:]))
    assert torch.isfinite(torch.autograd.grad(out.square().sum(), x)[0]).all()
    lonely = torch.tensor([[True, False], [False, False]])
    before = norm.running_mean.clone()
    assert torch.isfinite(norm(values(2, CHANNELS, 2), lonely)).all()
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("arguments", [(0, 4), (3, 0)])
def test_sizes_are_positive(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GhostBatchNorm(*arguments)
    with pytest.raises(ValueError, match=r"within 0\.\.1"):
        GhostBatchNorm(3, 4, momentum=1.5)


def ordinary_network() -> torch.nn.Module:
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3, momentum=0.3, eps=1e-3))
    network = torch.nn.Sequential(inner, torch.nn.ReLU(), torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    network(torch.randn(8, 4))  # so that the running means are not those of a new layer
    return network


def test_replaced_layers_keep_their_weights_and_go_back() -> None:
    before = ordinary_network()
    after = with_ghost_batch_norm(deepcopy(before), 4)
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in after.modules())
    assert list(after.state_dict()) == list(before.state_dict())
    x = torch.randn(8, 4)
    assert torch.equal(after.eval()(x), before.eval()(x))
    after.train()(x)
    before.load_state_dict(after.state_dict())
    assert torch.equal(before.eval()(x), after.eval()(x))


def test_a_layer_that_cannot_be_replaced_is_named() -> None:
    network = torch.nn.Sequential(torch.nn.Sequential(torch.nn.BatchNorm1d(3, momentum=None)))
    with pytest.raises(ValueError, match="0: 0: only batch normalisation with"):
        with_ghost_batch_norm(network, 4)


def test_microbatches_must_be_multiples_of_every_group() -> None:
    network = torch.nn.Sequential(layer(4), torch.nn.ReLU(), layer(6))
    assert microbatch_multiple(network) == 12
    assert microbatch_multiple(network.eval()) == 1
    assert microbatch_multiple(torch.nn.Linear(2, 2)) == 1
    with pytest.raises(ValueError, match=r"layer '0\.1' is a BatchNorm1d"):
        microbatch_multiple(ordinary_network())
    assert microbatch_multiple(ordinary_network().eval()) == 1
    assert microbatch_multiple(ordinary_network(), fixed_cut=True) == 1
