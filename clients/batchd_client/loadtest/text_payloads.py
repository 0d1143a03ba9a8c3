"""Requests of texts: as a BYTES input of the Open Inference Protocol, or to /v1/embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from batchd_client.embeddings import embed_body, encode_embed
from batchd_client.infer_codec import encode_infer
from batchd_client.loadtest.lengths import Lengths
from batchd_client.loadtest.payload import Payload
from batchd_client.metadata import ModelMetadata
from batchd_client.wire import EncodedRequest

Api: TypeAlias = Literal["oip", "embeddings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPayloads:
    """Texts drawn with replacement; their size is counted in words.

    With `lengths`, or for a request of a given size, a text is cut to that many words, going on with the texts that
    follow it where it is too short.
    """

    model: str
    texts: tuple[str, ...]
    api: Api = "embeddings"
    input_name: str | None = None
    """The BYTES input that takes the text; for the API `oip`."""
    lengths: Lengths | None = None

    def make(
        self, rng: np.random.Generator, *, size: int | None = None, items: int = 1, deadline_s: float | None = None
    ) -> Payload:
        """Encode a request of `items` texts."""
        chosen = [self._text(rng, size) for _ in range(items)]
        request = self._encode(chosen, deadline_s)
        return Payload(
            path=request.path,
            headers=request.headers,
            body=request.body,
            size=max(len(text.split()) for text in chosen),
            items=items,
        )

    def _text(self, rng: np.random.Generator, size: int | None) -> str:
        first = int(rng.integers(len(self.texts)))
        if size is None and self.lengths is not None:
            size = int(self.lengths.sample(rng, 1)[0])
        if size is None:
            return self.texts[first]
        following = islice(cycle(self.texts), first, None)
        return " ".join(islice(chain.from_iterable(text.split() for text in following), size))

    def _encode(self, texts: Sequence[str], deadline_s: float | None) -> EncodedRequest:
        if self.api == "embeddings":
            return encode_embed(embed_body(self.model, texts, None), deadline_s)
        assert self.input_name is not None
        array = np.array([text.encode() for text in texts], dtype=object)
        return encode_infer(self.model, {self.input_name: array}, timeout_s=deadline_s)


def text_input(metadata: ModelMetadata) -> str:
    """Return the model's input that takes a text: BYTES with no axis but the batch's.

    Raises:
        ValueError: where it has none.
    """
    for tensor in metadata.inputs:
        if tensor.datatype == "BYTES" and len(tensor.shape) == 1:
            return tensor.name
    raise ValueError(f"model {metadata.name!r} has no input of BYTES with shape [-1], so it takes no texts")


def parse_texts(lines: Iterable[str], source: str = "texts") -> tuple[str, ...]:
    """Parse JSON lines with a member `text`.

    Raises:
        ValueError: in one line that names the source and the line.
    """
    texts: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{source}, line {number}: not JSON") from error
            text = cast(dict[str, Any], row).get("text") if isinstance(row, dict) else None
            if not isinstance(text, str) or not text.split():
                raise ValueError(f'{source}, line {number}: needs {{"text": "..."}} with words in it')
            texts.append(text)
    if not texts:
        raise ValueError(f"{source}: no text in it")
    return tuple(texts)


def read_texts(path: Path) -> tuple[str, ...]:
    """Read and parse a file.

    Raises:
        ValueError: as `parse_texts`.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        return parse_texts(lines, str(path))
