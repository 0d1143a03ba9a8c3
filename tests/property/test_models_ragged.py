"""Items end to end: an answer is the same in any ragged batch, alone, and padded."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.protocol import Model, SupportsRagged
from batchd_server.models.ragged import RaggedBatch, RaggedModel
from batchd_server.models.spec import Array, Tensors, TensorSpec

CPU = torch.device("cpu")
INPUTS = (
    TensorSpec(name="readings", datatype="FP32", shape=("steps", 3)),
    TensorSpec(name="gain", datatype="FP32", shape=(3,)),
)
OUTPUTS = (
    TensorSpec(name="scaled", datatype="FP32", shape=("steps", 3)),
    TensorSpec(name="mean", datatype="FP64", shape=(3,)),
)


class RaggedMeans(RaggedModel):
    inputs = INPUTS
    outputs = OUTPUTS

    def build(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def forward(self, batch: RaggedBatch) -> dict[str, torch.Tensor]:
        gain = torch.repeat_interleave(batch["gain"], batch.lengths, dim=0)
        scaled = self.network(batch["readings"]) * gain
        return {"scaled": scaled, "mean": torch.segment_reduce(scaled, "mean", lengths=batch.lengths, axis=0)}


class PaddedMeans(PaddedModel):
    inputs = INPUTS
    outputs = OUTPUTS

    def build(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def forward(self, batch: PaddedBatch) -> dict[str, torch.Tensor]:
        scaled = self.network(batch["readings"]) * batch["gain"].unsqueeze(1)
        total = (scaled * batch.mask("steps").unsqueeze(-1)).sum(dim=1)
        return {"scaled": scaled, "mean": total / batch.lengths("steps").unsqueeze(-1)}


@cache
def ragged() -> RaggedMeans:
    model = RaggedMeans()
    model.load(CPU)
    return model


@cache
def padded() -> PaddedMeans:
    model = PaddedMeans()
    model.load(CPU)
    return model


def recordings(lengths: list[int], seed: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "readings": rng.normal(size=(length, 3)).astype(np.float32),
            "gain": rng.normal(size=3).astype(np.float32),
        }
        for length in lengths
    ]


def answers(model: RaggedMeans, items: list[dict[str, Array]]) -> list[Tensors]:
    with torch.inference_mode():
        return list(model.split(model.run(model.collate_ragged(items)), items))


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), seed=st.integers(0, 2**16))
def test_an_answer_is_the_same_in_a_ragged_batch_alone_and_padded(lengths: list[int], seed: int) -> None:
    items = recordings(lengths, seed)
    together = answers(ragged(), items)
    shape = (max(lengths),)
    with torch.inference_mode():
        side_by_side = padded().split(padded().run(padded().collate(items, shape)), items)
        ignoring = ragged().split(ragged().run(ragged().collate(items, shape)), items)
    for item, found, other, same in zip(items, together, side_by_side, ignoring, strict=True):
        (alone,) = answers(ragged(), [item])
        assert_same(found, alone)
        assert_same(found, other)
        assert_same(found, same)


def test_the_base_is_a_model_that_supports_ragged_batches_and_asks_for_them() -> None:
    assert isinstance(ragged(), Model)
    assert isinstance(ragged(), SupportsRagged)
    assert not isinstance(padded(), SupportsRagged)
    assert RaggedMeans.default_batching == {"layout": "ragged"}


@pytest.mark.parametrize(
    ("shape", "hint"), [(("rows", "columns"), "one variable axis"), ((3, "steps"), "only the first axis")]
)
def test_what_cannot_be_laid_end_to_end_is_said(shape: tuple[int | str, ...], hint: str) -> None:
    class Wrong(RaggedMeans):
        inputs = (TensorSpec(name="readings", datatype="FP32", shape=shape),)

    model = Wrong()
    model.load(CPU)
    size = tuple(3 for _ in shape)
    with pytest.raises(ValueError, match=hint):
        model.collate_ragged([{"readings": np.zeros(size, np.float32)}])


def test_a_missing_input_is_named() -> None:
    (item,) = recordings([4], 0)
    with pytest.raises(ValueError, match="'gain' is missing"):
        ragged().collate_ragged([item, {"readings": item["readings"]}])


def test_an_output_of_another_size_than_declared_is_refused() -> None:
    items = recordings([2, 3], 0)
    with pytest.raises(ValueError, match="'scaled' must have shape"):
        ragged().split({"scaled": torch.zeros(4, 3), "mean": torch.zeros(2, 3)}, items)
