"""What models do in a front process: shapes and preprocessing, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.exported import ExportedModel
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Pairs(PaddedModel):
    inputs = (
        TensorSpec(name="left", datatype="FP32", shape=("rows", 2, "columns")),
        TensorSpec(name="right", datatype="FP32", shape=("columns", "depth"), optional=True),
    )
    outputs = inputs

    def build(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        raise NotImplementedError

    def forward(self, batch):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        raise NotImplementedError


def zeros(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.zeros(shape, dtype=np.float32)


def test_the_shape_lists_the_named_axes_in_order_of_first_appearance() -> None:
    assert Pairs().axes == ("rows", "columns", "depth")
    assert Pairs().shape({"left": zeros(3, 2, 5), "right": zeros(5, 7)}) == (3, 5, 7)


def test_an_axis_has_one_size_per_item() -> None:
    with pytest.raises(ValueError, match="'columns' is 6 in 'right' but 5"):
        Pairs().shape({"left": zeros(3, 2, 5), "right": zeros(6, 7)})


def test_an_axis_that_no_tensor_gives_is_named() -> None:
    with pytest.raises(ValueError, match="'depth'"):
        Pairs().shape({"left": zeros(3, 2, 5)})


def test_a_line_of_digits_is_a_multiple_of_eight_wide() -> None:
    model = DigitLines()
    assert model.shape(model.preprocess({"image": zeros(8, 24)})) == (24,)
    with pytest.raises(ValueError, match="multiple of 8 pixels, got 20"):
        model.preprocess({"image": zeros(8, 20)})


SPEC = {"name": "x", "datatype": "FP32", "shape": ["length", 4]}


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"path": "missing.pt2"}, "no file 'missing.pt2'"),
        ({"format": "onnx"}, "auto, export, torchscript"),
        ({"inputs": []}, "'inputs' must be a list of tables"),
        ({"inputs": [{"name": "x"}]}, "key 'datatype' is missing"),
        ({"inputs": [{**SPEC, "dtype": "FP32"}]}, "unknown key 'dtype'; allowed: name, datatype, shape"),
        ({"inputs": [{**SPEC, "datatype": "BYTES"}]}, "not BYTES"),
        ({"inputs": [{**SPEC, "datatype": "FLOAT"}]}, "'FLOAT' is not one of BOOL"),
        ({"mask_input": "mask", "mask_axis": "width"}, "must be one of length, got 'width'"),
        ({"mask_input": "mask", "inputs": [{**SPEC, "shape": ["a", "b"]}]}, "must name one of the variable axes: a, b"),
        ({}, "neither a torch.export archive nor TorchScript"),
    ],
)
def test_a_bad_option_of_an_exported_model_is_named(tmp_path: Path, options: dict[str, object], hint: str) -> None:
    file = tmp_path / "model.pt2"
    file.write_bytes(b"no archive")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        ExportedModel(**{"path": str(file), "inputs": [SPEC], "outputs": [SPEC], **options})  # type: ignore[arg-type]
    assert hint in str(caught.value)
