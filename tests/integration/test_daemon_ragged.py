"""Batches without padding through the whole real daemon: answers, what is recorded, and what is learned."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from daemon_rig import daemon

from batchd.policy import Layout
from batchd_client import AsyncClient, InferResult
from batchd_server.config.policies import layouts_to_try, model_policy
from batchd_server.config.settings import BatchingSettings
from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.ragged import RaggedModel
from batchd_server.models.spec import Tensors

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = """
[state]
directory = "learned"

[models.step-scores]
entrypoint = "step_scores:StepScores"
batching = { slo_ms = 60000, max_batch_elements = 400, max_batch_size = 16 }
"""
TEXT = """
[models.LAYOUT]
entrypoint = "batchd_server.models.text_encoder:TextEncoder"
batching = { slo_ms = 60000, layout = "LAYOUT" }
"""
LAYOUTS = ("padded", "ragged", "auto")


def folder_with_example(tmp_path: Path) -> Path:
    shutil.copy(EXAMPLES / "step_scores.py", tmp_path)
    return tmp_path


def step_scores() -> RaggedModel:
    sys.path.insert(0, str(EXAMPLES))
    try:
        from step_scores import StepScores  # type: ignore[import-not-found]  # an example, not a package
    finally:
        sys.path.remove(str(EXAMPLES))
    model: RaggedModel = StepScores()
    model.load(torch.device("cpu"))
    return model


async def ask_all(url: str, model: str, requests: list[dict[str, np.ndarray]]) -> list[InferResult]:
    async with AsyncClient(url) as client:
        return list(await asyncio.gather(*(client.infer(model, request) for request in requests)))


def decisions(url: str, model: str) -> list[dict[str, Any]]:
    query: dict[str, str | int] = {"model": model, "limit": 1000}
    found: list[dict[str, Any]] = httpx.get(f"{url}/v1/decisions", params=query, timeout=60).json()["data"]
    return found


def test_every_recording_gets_the_answer_that_it_gets_alone_and_what_was_learned_is_saved(tmp_path: Path) -> None:
    folder = folder_with_example(tmp_path)
    rng = np.random.default_rng(5)
    items: list[Tensors] = [
        {"readings": rng.normal(size=(int(length), 3)).astype(np.float32)} for length in rng.integers(1, 120, size=80)
    ]
    requests = [{"readings": item["readings"][None]} for item in items]
    with daemon(folder, CONFIG) as running:
        results = asyncio.run(ask_all(running.url, "step-scores", requests))
        records = decisions(running.url, "step-scores")
    model = step_scores()
    for item, result in zip(items, results, strict=True):
        with torch.no_grad():
            (alone,) = model.split(model.run(model.collate_ragged([item])), [item])
        np.testing.assert_allclose(result["scores"][0], alone["scores"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result["mean"][0], alone["mean"], rtol=1e-5, atol=1e-6)
    assert sum(record["batch_size"] for record in records) >= len(items)
    assert max(record["batch_size"] for record in records) > 1, "nothing shared a batch"
    for record in records:
        assert record["padded_shape"] is None
        assert record["padding_ratio"] == 0.0
    state = json.loads((folder / "learned" / "cost-models" / "step-scores.json").read_text())
    assert state["state"]["layout"] == "ragged"
    assert state["state"]["latency"]["samples"]


@pytest.mark.text
def test_a_text_has_its_embedding_in_every_layout(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from batchd_server.models.text_encoder import TextEncoder

    try:
        encoder = TextEncoder()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    encoder.load(torch.device("cpu"))
    texts = [" ".join(["word"] * count) for count in (1, 3, 40, 7, 7, 90, 2, 15)] * 2
    requests = [{"text": np.array([text.encode()], dtype=object)} for text in texts]
    with daemon(tmp_path, "".join(TEXT.replace("LAYOUT", layout) for layout in LAYOUTS)) as running:
        results = {layout: asyncio.run(ask_all(running.url, layout, requests)) for layout in LAYOUTS}
        records = {layout: decisions(running.url, layout) for layout in LAYOUTS}
    for index, text in enumerate(texts):
        item = encoder.preprocess({"text": np.array(text.encode(), dtype=object)})
        with torch.no_grad():
            (alone,) = encoder.split(encoder.run(encoder.collate([item], encoder.shape(item))), [item])
        scale = float(np.abs(alone["embedding"]).max())
        for layout in LAYOUTS:
            embedding = results[layout][index]["embedding"][0]
            assert float(np.abs(embedding - alone["embedding"]).max()) <= 1e-5 * scale, layout
    for layout in LAYOUTS:
        ragged = {record["padded_shape"] is None for record in records[layout]}
        assert len(ragged) == 1, "one layout serves"
        assert layout == "auto" or ragged == {layout == "ragged"}


def settings(layout: str) -> BatchingSettings:
    return BatchingSettings.model_validate({"layout": layout})


def test_the_layout_is_the_operators_the_models_or_measured() -> None:
    nothing = BatchingSettings()
    both = (Layout.PADDED, Layout.RAGGED)
    assert layouts_to_try(nothing, nothing, DigitLines) == (Layout.PADDED,)
    assert layouts_to_try(nothing, nothing, RaggedModel) == (Layout.RAGGED,)
    assert layouts_to_try(settings("auto"), nothing, RaggedModel) == both
    assert layouts_to_try(settings("auto"), nothing, DigitLines) == (Layout.PADDED,)
    assert model_policy(settings("ragged"), nothing, RaggedModel).layout is Layout.RAGGED
    assert model_policy(settings("padded"), settings("ragged"), RaggedModel).layout is Layout.PADDED
    with pytest.raises(ValueError, match="needs a model with collate_ragged"):
        model_policy(settings("ragged"), nothing, DigitLines)
