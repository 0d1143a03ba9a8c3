"""The law of padding: an answer is the same in any batch, at any padded size, as alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import Tensors, TensorSpec

CPU = torch.device("cpu")


class RowSums(PaddedModel):
    """Two variable axes, a pad value of its own, and an output that keeps one of them."""

    inputs = (
        TensorSpec(name="grid", datatype="FP32", shape=("rows", "columns")),
        TensorSpec(name="weights", datatype="FP32", shape=("columns",), optional=True),
    )
    outputs = (
        TensorSpec(name="sums", datatype="FP32", shape=("rows",)),
        TensorSpec(name="transposed", datatype="FP32", shape=("columns", "rows")),
        TensorSpec(name="total", datatype="FP64", shape=()),
    )
    pad_values = {"grid": 1000.0}  # noqa: RUF012 - as a user would write it

    def build(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def forward(self, batch: PaddedBatch) -> dict[str, torch.Tensor]:
        grid = self.network(batch["grid"]) * batch["weights"].unsqueeze(1)
        valid = batch.mask("rows").unsqueeze(2) & batch.mask("columns").unsqueeze(1)
        sums = grid.where(valid, 0).sum(dim=2)
        return {"sums": sums, "transposed": batch["grid"].mT, "total": sums.sum(dim=1)}


@cache
def row_sums() -> RowSums:
    model = RowSums()
    model.load(CPU)
    return model


@cache
def digit_lines() -> DigitLines:
    model = DigitLines()
    model.load(CPU)
    return model


def answers(model: PaddedModel, items: list[Tensors], padded_shape: tuple[int, ...]) -> list[Tensors]:
    with torch.inference_mode():
        return list(model.split(model.run(model.collate(items, padded_shape)), items))


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        scale = max(1.0, float(np.abs(array).max()))
        assert float(np.abs(found[name] - array).max()) <= 1e-5 * scale, name


@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6),
    extra=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 2**16),
)
def test_a_padded_model_answers_as_alone(shapes: list[tuple[int, int]], extra: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    items: list[Tensors] = []
    for rows, columns in shapes:
        item = {"grid": rng.normal(size=(rows, columns)).astype(np.float32)}
        if rng.random() < 0.7:
            item["weights"] = rng.normal(size=columns).astype(np.float32)
        items.append(item)
    padded = (max(rows for rows, _ in shapes) + extra[0], max(columns for _, columns in shapes) + extra[1])
    for item, shape, found in zip(items, shapes, answers(row_sums(), items, padded), strict=True):
        (alone,) = answers(row_sums(), [item], shape)
        assert_same(found, alone)
        np.testing.assert_array_equal(found["transposed"], item["grid"].T)
        weights = item.get("weights", np.zeros(shape[1], dtype=np.float32))
        np.testing.assert_allclose(found["sums"], item["grid"] @ weights, rtol=1e-4, atol=1e-4)


@settings(max_examples=40)
@given(
    digits=st.lists(st.integers(1, 32), min_size=1, max_size=8),
    extra=st.integers(0, 40),
    seed=st.integers(0, 2**16),
)
def test_a_line_of_digits_is_read_as_alone_whatever_its_neighbours_and_padding(
    digits: list[int], extra: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    items: list[Tensors] = [{"image": rng.random((8, 8 * count), dtype=np.float32)} for count in digits]
    for item, count, found in zip(
        items, digits, answers(digit_lines(), items, (8 * max(digits) + extra,)), strict=True
    ):
        (alone,) = answers(digit_lines(), [item], (8 * count,))
        assert found["digits"].shape == (count,)
        scale = max(1.0, float(np.abs(alone["scores"]).max()))
        assert float(np.abs(found["scores"] - alone["scores"]).max()) <= 1e-5 * scale
        clear = np.diff(np.sort(alone["scores"], axis=1)[:, -2:], axis=1)[:, 0] > 1e-4 * scale
        np.testing.assert_array_equal(found["digits"][clear], alone["digits"][clear])
