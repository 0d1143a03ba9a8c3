"""`batchd bench offline` measures, the workload is what it says, and the packed layers are exact."""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from batchd.ladder import Multiples
from batchd_server.cli.bench import app
from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.offline import fixed_batches, sorted_batches
from batchd_server.models.packed_linear import PackedLinear, pack_linears
from batchd_server.models.spec import Tensors

ROOT = Path(__file__).parents[2]


def load_by_path(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bench(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["offline", *arguments])
    return result.exit_code, result.output


def test_the_embedded_model_is_measured_in_four_ways() -> None:
    code, output = bench("--count", "40", "--repeats", "1", "--json")
    assert code == 0, output
    report: Mapping[str, Any] = json.loads(output)
    assert report["items"] == 40
    names = [result["way"] for result in report["results"]]
    assert names == ["one by one", "first come, 8", "first come, 32", "size-sorted"]
    assert [result["num_batches"] for result in report["results"][:3]] == [40, 5, 2]
    for result in report["results"]:
        assert result["items_per_s"] > 0
        assert 0 <= result["outside_network"] < 1
    assert report["results"][0]["padding_ratio"] == 0
    assert report["results"][3]["padding_ratio"] < report["results"][2]["padding_ratio"]


def test_without_json_it_prints_a_table() -> None:
    code, output = bench("--count", "8", "--repeats", "1")
    assert code == 0, output
    assert "size-sorted" in output


def test_items_of_a_file_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"image": [[0.5] * 16] * 8}) + "\n", encoding="utf-8")
    code, output = bench("--file", str(file), "--repeats", "1", "--json")
    assert code == 0, output
    assert json.loads(output)["items"] == 1
    file.write_text(json.dumps({"image": [[0.5] * 16] * 7}) + "\n", encoding="utf-8")
    code, output = bench("--file", str(file))
    assert code == 2
    assert "line 1: input 'image' must have shape" in output


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--entrypoint", "nowhere:Nothing"], "no module named 'nowhere'"),
        (["--options", '{"colour": "red"}'], "unknown option 'colour'"),
        (["--file", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], hint: str) -> None:
    code, output = bench(*arguments)
    assert code == 2
    assert hint in output
    assert "Traceback" not in output


def test_sorted_batches_keep_every_item_and_the_budget() -> None:
    model = DigitLines()
    rng = np.random.default_rng(0)
    widths = (8 * rng.integers(1, 33, size=200)).tolist()
    items: list[Tensors] = [{"image": np.zeros((8, width), dtype=np.float32)} for width in widths]
    batches = sorted_batches(model, items, 512, Multiples(8))
    assert sorted(item["image"].shape[1] for batch in batches for item in batch) == sorted(widths)
    assert all(max(item["image"].shape[1] for item in batch) * len(batch) <= 512 for batch in batches)
    assert [len(batch) for batch in fixed_batches(items, 32)] == [32] * 6 + [8]


def test_packed_layers_compute_what_they_replaced() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Linear(48, 96), torch.nn.GELU(), torch.nn.Sequential(torch.nn.Linear(96, 24, bias=False))
    )
    x = torch.randn(3, 7, 48)
    with torch.no_grad():
        expected = plain(x)
        replaced = pack_linears(plain)
        assert replaced == (2 if torch.ops.mkldnn and torch.backends.mkldnn.is_available() else 0)  # type: ignore[no-untyped-call]
        assert isinstance(plain[0], PackedLinear) or replaced == 0
        torch.testing.assert_close(plain(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.text
def test_the_text_workload_has_the_lengths_it_states(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    workload = load_by_path(ROOT / "benchmarks" / "text_workload.py")
    passages = workload.draw_passages(1500, seed=1)
    tokens = [passage.tokens for passage in passages]
    assert len(passages) == 1500
    assert 22 <= statistics.median(tokens) <= 26
    assert min(tokens) >= 3
    assert 200 < max(tokens) <= 256
    spread = np.quantile(tokens, 0.84) / np.quantile(tokens, 0.5)
    assert 2.2 <= spread <= 3.2  # e for sigma 1
    assert [passage.text for passage in workload.draw_passages(20, seed=1)] == [p.text for p in passages[:20]]
    assert [passage.text for passage in workload.draw_passages(20, seed=2)] != [p.text for p in passages[:20]]

    from batchd_server.models.text_encoder import TextEncoder

    encoder = TextEncoder()
    for passage in passages[:50]:
        text = np.empty((), dtype=object)
        text[()] = passage.text.encode()
        assert encoder.num_tokens(encoder.preprocess({"text": text})) == passage.tokens


def test_the_example_model_is_served_by_the_base_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib

    from batchd_server.config.settings import ModelSettings
    from batchd_server.models.loading import construct

    folder = ROOT / "examples"
    monkeypatch.syspath_prepend(str(folder))
    config = tomllib.loads((folder / "sensor_trend.toml").read_text(encoding="utf-8"))
    model = construct(ModelSettings.model_validate(config["models"]["sensor-trend"]))
    model.load(torch.device("cpu"))
    rng = np.random.default_rng(0)
    items: list[Tensors] = [{"readings": rng.normal(size=(steps, 3)).astype(np.float32)} for steps in (4, 17, 1)]
    with torch.inference_mode():
        answers = model.split(model.run(model.collate(items, (24,))), items)
        for item, answer in zip(items, answers, strict=True):
            shape = model.shape(item)
            (alone,) = model.split(model.run(model.collate([item], shape)), [item])
            assert answer["smooth"].shape == (*shape, 3)
            np.testing.assert_allclose(answer["smooth"], alone["smooth"], atol=1e-5)
            np.testing.assert_allclose(answer["mean"], alone["smooth"].mean(axis=0), atol=1e-5)
