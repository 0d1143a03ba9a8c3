"""Files made by torch.export and TorchScript, served as they are."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batchd_server.models.exported import ExportedModel, Format, detect_format
from batchd_server.models.spec import Tensors


class Tagger(torch.nn.Module):
    """Per-step scores, and their mean over the steps that the mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keep = mask.unsqueeze(-1).to(x.dtype)
        scores = self.linear(x) * keep
        return scores, scores.sum(dim=1) / keep.sum(dim=1)


INPUTS = [{"name": "x", "datatype": "FP32", "shape": ["steps", 4]}]
OUTPUTS = [
    {"name": "scores", "datatype": "FP32", "shape": ["steps", 3]},
    {"name": "mean", "datatype": "FP32", "shape": [3]},
]


def save(kind: Format, path: Path, network: torch.nn.Module | None = None) -> Path:
    network = (network or Tagger()).eval()
    if kind is Format.EXPORT:
        items, steps = torch.export.Dim("items", min=1, max=256), torch.export.Dim("steps", min=1, max=512)
        example = (torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool))
        axes = ({0: items, 1: steps}, {0: items, 1: steps})
        torch.export.save(torch.export.export(network, example, dynamic_shapes=axes), path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(torch.jit.script(network), path)  # type: ignore[no-untyped-call]
    return path


@pytest.mark.parametrize("kind", [Format.EXPORT, Format.TORCHSCRIPT])
def test_a_file_answers_in_any_batch_as_the_network_it_was_made_of(tmp_path: Path, kind: Format) -> None:
    path = save(kind, tmp_path / "model.bin")
    assert detect_format(path) is kind
    model = ExportedModel(path=str(path), inputs=INPUTS, outputs=OUTPUTS, mask_input="mask")
    model.load(torch.device("cpu"))
    rng = np.random.default_rng(0)
    items: list[Tensors] = [{"x": rng.normal(size=(steps, 4)).astype(np.float32)} for steps in (3, 9, 1)]
    with torch.inference_mode():
        answers = model.split(model.run(model.collate(items, (16,))), items)
        for item, answer in zip(items, answers, strict=True):
            alone = torch.from_numpy(item["x"]).unsqueeze(0)
            scores, mean = Tagger()(alone, torch.ones(alone.shape[:2], dtype=torch.bool))
            np.testing.assert_allclose(answer["scores"], scores[0].numpy(), atol=1e-5)
            np.testing.assert_allclose(answer["mean"], mean[0].numpy(), atol=1e-5)


def test_a_graph_may_take_lengths_under_a_name_of_its_own(tmp_path: Path) -> None:
    class Lengths(torch.nn.Module):
        def forward(self, lengths: torch.Tensor, data: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"mean": data.sum(dim=1) / lengths.unsqueeze(-1)}

    path = save(Format.TORCHSCRIPT, tmp_path / "lengths.pt", Lengths())
    outputs = [{"name": "mean", "datatype": "FP32", "shape": [4]}]
    model = ExportedModel(path=str(path), inputs=INPUTS, outputs=outputs, lengths_input="lengths")
    model.load(torch.device("cpu"))
    items: list[Tensors] = [{"x": np.full((steps, 4), steps, dtype=np.float32)} for steps in (2, 5)]
    with torch.inference_mode():
        answers = model.split(model.run(model.collate(items, (8,))), items)
    assert [answer["mean"].tolist() for answer in answers] == [[2.0] * 4, [5.0] * 4]


def test_parameters_that_the_configuration_does_not_give_are_named(tmp_path: Path) -> None:
    path = save(Format.TORCHSCRIPT, tmp_path / "model.pt")
    model = ExportedModel(path=str(path), inputs=INPUTS, outputs=OUTPUTS)
    with pytest.raises(ValueError, match="takes x, mask; the configuration gives x"):
        model.load(torch.device("cpu"))


def test_too_few_named_outputs_are_told(tmp_path: Path) -> None:
    path = save(Format.TORCHSCRIPT, tmp_path / "model.pt")
    model = ExportedModel(path=str(path), inputs=INPUTS, outputs=OUTPUTS[:1], mask_input="mask")
    model.load(torch.device("cpu"))
    with pytest.raises(ValueError, match="gave 2 outputs, the configuration names 1"), torch.inference_mode():
        model.run(model.collate([{"x": np.zeros((2, 4), dtype=np.float32)}], (2,)))


class Payload:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize(
    "place", ["data/sample_inputs/model.pt", "data/constants/opaque_obj_0", "data/constants/custom_obj_0"]
)
def test_a_pickle_hidden_in_an_archive_is_not_run(tmp_path: Path, place: str) -> None:
    trace = tmp_path / "trace"
    path = save(Format.EXPORT, tmp_path / "model.pt2")
    poisoned = tmp_path / "poisoned.pt2"
    payload = io.BytesIO()
    if place.endswith(".pt"):
        torch.save((Payload(trace),), payload)
    else:
        payload.write(pickle.dumps(Payload(trace)))
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(poisoned, "w") as target:
        root = source.namelist()[0].partition("/")[0]
        for name in source.namelist():
            if name != f"{root}/{place}":
                target.writestr(name, source.read(name))
        target.writestr(f"{root}/{place}", payload.getvalue())
    model = ExportedModel(path=str(poisoned), inputs=INPUTS, outputs=OUTPUTS, mask_input="mask")
    with pytest.raises(Exception, match=r"pickled objects|[Ww]eights.only"):
        model.load(torch.device("cpu"))
    assert not trace.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_compiled_code_in_an_archive_is_not_loaded(tmp_path: Path) -> None:
    path = save(Format.EXPORT, tmp_path / "model.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/data/aotinductor/model/model.so", b"\x7fELF")
    model = ExportedModel(path=str(path), inputs=INPUTS, outputs=OUTPUTS, mask_input="mask")
    with pytest.raises(ValueError, match="holds compiled code"):
        model.load(torch.device("cpu"))
