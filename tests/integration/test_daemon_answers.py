"""Whatever batch an item rides in, its answer is the model's answer to it alone; through the whole real daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import openai
import pytest
import torch
from daemon_rig import daemon
from hypothesis import given, settings
from hypothesis import strategies as st

from batchd_client import AsyncClient, Client, InferResult
from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.digit_lines.scans import scan_lines
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors
from batchd_server.models.text_encoder import TextEncoder

CONFIG = """
[models.digit-lines]
entrypoint = "batchd_server.models.digit_lines:DigitLines"
batching.slo_ms = 60000

[models.text-encoder]
entrypoint = "batchd_server.models.text_encoder:TextEncoder"
batching.slo_ms = 60000
"""
WORDS = ["a", "batch", "of", "words", "that", "differ", "in", "length", "encyclopaedic", "tokenisation", "pooling"]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with daemon(tmp_path_factory.mktemp("daemon"), CONFIG) as running:
        yield running.url


@pytest.fixture(scope="module")
def lines() -> Sequence[np.ndarray]:
    return [image for image, _ in scan_lines(11, 200)]


def loaded(model: Model) -> Model:
    model.load(torch.device("cpu"))
    return model


@pytest.fixture(scope="module")
def digit_lines() -> Model:
    return loaded(DigitLines())


@pytest.fixture(scope="module")
def text_encoder() -> Model:
    return loaded(TextEncoder())


def alone(model: Model, item: Tensors) -> Tensors:
    prepared = model.preprocess(item)
    with torch.no_grad():
        return model.split(model.run(model.collate([prepared], model.shape(prepared))), [prepared])[0]


async def all_at_once(url: str, model: str, items: Sequence[Tensors]) -> list[InferResult]:
    async with AsyncClient(url) as client:
        return await asyncio.gather(
            *(client.infer(model, {name: tensor[None] for name, tensor in item.items()}) for item in items)
        )


def assert_same(answer: np.ndarray, expected: np.ndarray) -> None:
    assert answer.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max()))
    assert float(np.abs(answer - expected).max()) <= TOLERANCE * scale


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 32), min_size=2, max_size=48), seed=st.integers(0, 10**6))
def test_lines_of_any_widths_are_read_as_if_alone(url: str, digit_lines: Model, lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = [{"image": rng.random((8, 8 * length), dtype=np.float32)} for length in lengths]
    answers = asyncio.run(all_at_once(url, "digit-lines", items))
    for item, answer in zip(items, answers, strict=True):
        expected = alone(digit_lines, item)
        assert_same(answer["scores"][0], expected["scores"])
        assert np.array_equal(answer["digits"][0], expected["digits"])


@settings(max_examples=10)
@given(texts=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=120), min_size=2, max_size=24))
def test_texts_of_any_lengths_are_embedded_as_if_alone(url: str, text_encoder: Model, texts: list[list[str]]) -> None:
    items = []
    for words in texts:
        text = np.empty((), dtype=np.object_)
        text[()] = " ".join(words).encode()
        items.append({"text": text})
    answers = asyncio.run(all_at_once(url, "text-encoder", items))
    for item, answer in zip(items, answers, strict=True):
        assert_same(answer["embedding"][0], alone(text_encoder, item)["embedding"])


def test_concurrent_requests_did_ride_together(url: str, lines: Sequence[np.ndarray]) -> None:
    answers = asyncio.run(all_at_once(url, "digit-lines", [{"image": image} for image in lines]))
    assert max(int(answer.parameters["batch_size"]) for answer in answers) > 1
    with Client(url) as client:
        statistics = client.statistics("digit-lines")["model_stats"][0]
    assert statistics["execution_count"] < statistics["inference_count"]


def test_several_items_of_one_request_come_back_in_order(url: str, digit_lines: Model) -> None:
    images = np.random.default_rng(5).random((30, 8, 64), dtype=np.float32)
    with Client(url) as client:
        answer = client.infer("digit-lines", {"image": images})
    for image, scores in zip(images, answer["scores"], strict=True):
        assert_same(scores, alone(digit_lines, {"image": image})["scores"])


def test_the_openai_client_gets_the_same_embeddings(url: str, text_encoder: Model) -> None:
    texts = ["the quick brown fox", "pad me", "a rather longer sentence, so that one of them is padded in the batch"]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="text-encoder", input=texts)
    for text, row in zip(texts, answer.data, strict=True):
        array = np.empty((), dtype=np.object_)
        array[()] = text.encode()
        assert_same(np.asarray(row.embedding, dtype=np.float32), alone(text_encoder, {"text": array})["embedding"])
    assert answer.usage.prompt_tokens > len(texts)


def test_every_batch_left_a_record_that_explains_it(url: str, lines: Sequence[np.ndarray]) -> None:
    asyncio.run(all_at_once(url, "digit-lines", [{"image": image} for image in lines[:20]]))
    records = httpx.get(f"{url}/v1/decisions", params={"limit": 5, "model": "digit-lines"}, timeout=60).json()["data"]
    assert 1 <= len(records) <= 5
    for record in records:
        assert record["model"] == "digit-lines"
        assert record["outcome"] == "completed"
        assert record["reason"] in {"idle", "full", "deadline", "memory", "window"}
        assert record["actual_s"] > 0
        assert record["predicted_s"] > 0
        assert 0 <= record["padding_ratio"] < 1
    assert [record["batch_id"] for record in records] == sorted((r["batch_id"] for r in records), reverse=True)


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [({"limit": "0"}, 400, "limit"), ({"limit": "many"}, 400, "limit"), ({"model": "nope"}, 404, "model")],
)
def test_a_bad_question_about_decisions_is_a_problem_document(
    url: str, query: dict[str, str], status: int, field: str
) -> None:
    answer = httpx.get(f"{url}/v1/decisions", params=query, timeout=60)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field
