"""From an entrypoint to a model, and what an operator is told when it does not work. No model here needs torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from batchd_server.config.settings import ModelSettings
from batchd_server.models.loading import ModelLoadError, construct, load_model_class

MODULE = """
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec

SPEC = TensorSpec(name="x", datatype="FP32", shape=("length",))

class Echo(PaddedModel):
    inputs = (SPEC,)
    outputs = (SPEC,)
    def __init__(self, scale, offset=0.0):
        if scale < 0:
            raise ValueError(f"scale must not be negative, got {scale}")
        self.scale = scale
    def build(self): ...
    def forward(self, batch): ...

class Unfinished(PaddedModel):
    inputs = (SPEC,)
    outputs = (SPEC,)

class Partial:
    inputs = (SPEC,)
    outputs = (SPEC,)
    def preprocess(self, item): ...
    def shape(self, item): ...
    def collate(self, items, padded_shape): ...

class Greedy(Echo):
    def __init__(self, **options):
        self.options = options

class Doubled(Greedy):
    inputs = (SPEC, SPEC)

class Speechless(Greedy):
    outputs = ()
"""


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "house_models.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "house_broken.py").write_text("raise RuntimeError('no licence')", encoding="utf-8")
    (tmp_path / "house_needy.py").write_text("import surely_not_installed", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("house_models", "house_broken", "house_needy"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def settings(name: str, **options: object) -> ModelSettings:
    return ModelSettings(entrypoint=f"house_models:{name}", options=options)


def test_the_working_directory_is_importable() -> None:
    model = construct(settings("Echo", scale=2))
    assert model.inputs[0].name == "x"


def test_a_class_may_take_any_option() -> None:
    assert vars(construct(settings("Greedy", anything="goes")))["options"] == {"anything": "goes"}


@pytest.mark.parametrize(
    ("entrypoint", "hint"),
    [
        ("house_models", "form package.module:Class"),
        ("house_model:Echo", "no module named 'house_model'"),
        ("house_models.deeper:Echo", "house_models"),
        ("house_broken:Echo", "RuntimeError: no licence"),
        ("house_needy:Echo", "'surely_not_installed', which is not installed"),
        ("house_models:Ecko", "no class 'Ecko'; its model classes: "),
        ("house_models:SPEC", "no class 'SPEC'"),
    ],
)
def test_an_entrypoint_that_leads_nowhere_says_why(entrypoint: str, hint: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model_class(entrypoint)
    assert hint in str(caught.value)
    assert entrypoint in str(caught.value)


def test_an_unknown_class_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ModelLoadError, match="Echo"):
        load_model_class("house_models:Ecko")


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        (settings("Echo", scale=1, scael=2), "unknown option 'scael'; accepted options: scale (required), offset"),
        (settings("Echo", offset=1.0), "option 'scale' is missing"),
        (settings("Echo", scale=-1), "scale must not be negative, got -1"),
        (settings("Unfinished"), "build"),
        (settings("Partial"), "lacks load, run, split"),
        (settings("Doubled"), "inputs name a tensor twice"),
        (settings("Speechless"), "outputs must be a non-empty sequence"),
    ],
)
def test_what_cannot_be_constructed_says_why(model: ModelSettings, hint: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        construct(model)
    assert hint in str(caught.value)
    assert model.entrypoint in str(caught.value)
