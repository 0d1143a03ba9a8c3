"""The sentence encoder as a model: tokenises in the front with `tokenizers` alone, embeds in the device process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batchd.item import Shape
from batchd_server.models.spec import Array, Tensors, TensorSpec
from batchd_server.models.text_encoder.folder import Pooling, bundled_path, read_folder

if TYPE_CHECKING:
    import torch

    from batchd_server.models.text_encoder.network import EncoderNetwork
    from batchd_server.models.text_encoder.ragged_attention import Spans

RAGGED_TYPES = ("bert",)
"""Architectures that number positions from 0 and take them as an argument."""

_MIN_TOKENS = 3  # what a text leaves beside the two special tokens must be at least one


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids on the device, (B, L). `mask` is None where every token of every item counts."""

    input_ids: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class RaggedTokens:
    """Token ids on the device, end to end, sorted by length: T tokens in all, without those that a mask hides."""

    input_ids: torch.Tensor
    """(1, T)"""
    positions: torch.Tensor
    """Of each token in its own item, (1, T)."""
    spans: Spans
    place: torch.Tensor
    """Where each item of the batch has come to lie, (B,)."""


class TextEncoder:
    """Serves a folder of transformer weights; implements `Model`, `SupportsRagged` and `TextEmbedder`.

    `path` is the folder, by default that of the weights installed by the extra `text`. Texts longer than `max_tokens`
    tokens are cut, token ids longer than that are refused; the default is what the folder says.

    Raises:
        FileNotFoundError: weights, tokenizer or the extra are missing.
        ValueError: the folder or an option asks for something unsupported.
    """

    default_batching: Mapping[str, Any] = {"layout": "auto"}

    embedding_input = "text"
    token_input = "input_ids"  # noqa: S105 - the name of a tensor
    embedding_output = "embedding"

    _network: EncoderNetwork

    def __init__(self, path: str | None = None, max_tokens: int | None = None) -> None:
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415 - installed by the extra
        except ModuleNotFoundError as error:
            raise FileNotFoundError("the text encoder needs its extra: pip install 'batchd[text]'") from error
        self.folder = read_folder(bundled_path() if path is None else Path(path).expanduser())
        self.max_tokens = self.folder.max_tokens if max_tokens is None else max_tokens
        if not _MIN_TOKENS <= self.max_tokens <= self.folder.max_positions:
            raise ValueError(
                f"option 'max_tokens' must be in {_MIN_TOKENS}..{self.folder.max_positions}, got {self.max_tokens}"
            )
        # Truncation is set once, here: encoding alone changes nothing in the tokenizer, so threads may share it.
        self._tokenizer = Tokenizer.from_file(str(self.folder.path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens)
        tokens = ("tokens",)
        self.inputs: Sequence[TensorSpec] = (
            TensorSpec(name="text", datatype="BYTES", shape=(), optional=True),
            TensorSpec(name="input_ids", datatype="INT64", shape=tokens, optional=True, max_size=self.max_tokens),
            TensorSpec(name="attention_mask", datatype="INT64", shape=tokens, optional=True, max_size=self.max_tokens),
        )
        self.outputs: Sequence[TensorSpec] = (
            TensorSpec(name="embedding", datatype="FP32", shape=(self.folder.dimensions,)),
        )

    def preprocess(self, item: Tensors) -> Tensors:
        """Tokenise a text, or check token ids. The result holds `input_ids`, and `attention_mask` where it masks.

        Raises:
            ValueError: neither or both of text and input_ids, no UTF-8, an id outside the vocabulary, a useless mask.
        """
        if ("text" in item) == ("input_ids" in item):
            raise ValueError("give exactly one of 'text' and 'input_ids'")
        if "text" in item:
            if "attention_mask" in item:
                raise ValueError("'attention_mask' goes with 'input_ids', not with 'text'")
            return {"input_ids": self._tokenise(item["text"].item())}
        return self._check_ids(item["input_ids"], item.get("attention_mask"))

    def num_tokens(self, item: Tensors) -> int:
        """Return the tokens of a preprocessed item, special tokens included."""
        return len(item["input_ids"])

    def example(self, size: int) -> Tensors:
        """Return an item of `size` tokens, or as many as the model takes."""
        return self.preprocess({"input_ids": np.zeros(max(2, min(size, self.max_tokens)), dtype=np.int64)})

    def shape(self, item: Tensors) -> Shape:
        """Return `(tokens,)`."""
        return (len(item["input_ids"]),)

    def load(self, device: torch.device) -> None:
        """Load the network; imports torch and transformers."""
        from batchd_server.models.text_encoder.network import EncoderNetwork  # noqa: PLC0415 - device process only

        self._network = EncoderNetwork(self.folder, device)

    def collate(self, items: Sequence[Tensors], padded_shape: Shape) -> TokenBatch:
        """Pad with the padding token. No mask is built where nothing is padded or masked."""
        (length,) = padded_shape
        ids = np.full((len(items), length), self.folder.pad_id, dtype=np.int64)
        mask = np.zeros((len(items), length), dtype=np.int64)
        for row, item in enumerate(items):
            own = item["input_ids"]
            ids[row, : len(own)] = own
            mask[row, : len(own)] = item.get("attention_mask", 1)
        place = self._network.to_device
        return TokenBatch(place(ids), None if mask.all() else place(mask))

    def collate_ragged(self, items: Sequence[Tensors]) -> RaggedTokens:
        """Lay the tokens end to end, items of equal length side by side; a token that is masked is left out.

        Raises:
            ValueError: the network is of a kind whose positions batchd does not know.
        """
        from batchd_server.models.text_encoder.ragged_attention import Spans  # noqa: PLC0415 - device process only

        if self.folder.model_type not in RAGGED_TYPES:
            raise ValueError(f"a {self.folder.model_type} network takes padded batches only; ragged: {RAGGED_TYPES}")
        kept = [np.flatnonzero(item.get("attention_mask", np.ones_like(item["input_ids"]))) for item in items]
        lengths = np.array([len(positions) for positions in kept], dtype=np.int64)
        order = np.argsort(lengths, kind="stable")
        runs = [(length, len(list(group))) for length, group in groupby(lengths[order].tolist())]
        place = self._network.to_device
        return RaggedTokens(
            input_ids=place(np.concatenate([items[index]["input_ids"][kept[index]] for index in order])[None]),
            positions=place(np.concatenate([kept[index] for index in order])[None]),
            spans=Spans(
                runs=tuple((count, length) for length, count in runs),
                offsets=place(np.concatenate([[0], np.cumsum(lengths[order])])),
            ),
            place=place(np.argsort(order)),
        )

    def run(self, batch: TokenBatch | RaggedTokens) -> torch.Tensor:
        """Return the embeddings, (B, dimensions)."""
        if isinstance(batch, RaggedTokens):
            return self._network.embed_ragged(batch.input_ids, batch.positions, batch.spans)[batch.place]
        embeddings: torch.Tensor = self._network(batch.input_ids, batch.mask)
        return embeddings

    def split(self, outputs: torch.Tensor, items: Sequence[Tensors]) -> list[dict[str, Array]]:
        """Return one row each, after one copy to the host."""
        rows: Array = outputs.cpu().numpy()
        return [{"embedding": row} for row in rows]

    def _tokenise(self, text: object) -> Array:
        if not isinstance(text, bytes):
            raise ValueError("'text' must hold bytes")
        try:
            decoded = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"'text' is not UTF-8: {error.reason} at byte {error.start}") from None
        return np.array(self._tokenizer.encode(decoded).ids, dtype=np.int64)

    def _check_ids(self, ids: Array, mask: Array | None) -> dict[str, Array]:
        if ids.min() < 0 or ids.max() >= self.folder.vocabulary_size:
            raise ValueError(f"'input_ids' must be in 0..{self.folder.vocabulary_size - 1}")
        if mask is None:
            return {"input_ids": ids}
        if not np.isin(mask, (0, 1)).all() or not mask.any():
            raise ValueError("'attention_mask' must hold 0 and 1, and at least one 1")
        if self.folder.pooling is Pooling.CLS and not mask[0]:
            raise ValueError("'attention_mask' must not hide the first token, which stands for the text")
        num_tokens = int(np.flatnonzero(mask)[-1]) + 1  # what the client padded is not worth running
        checked = {"input_ids": ids[:num_tokens]}
        if not mask[:num_tokens].all():
            checked["attention_mask"] = mask[:num_tokens]
        return checked
