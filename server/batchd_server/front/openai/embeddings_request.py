"""The body of `POST /v1/embeddings`, checked by hand: strings or token ids, one or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchd_server.errors import BadRequest

MOST_INPUTS = 2048
LARGEST_TOKEN = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsRequest:
    """What a client asked. Either `texts` or `tokens` is filled."""

    model: str
    texts: Sequence[str]
    tokens: Sequence[Sequence[int]]
    base64: bool
    dimensions: int | None


def parse_embeddings_request(document: dict[str, Any]) -> EmbeddingsRequest:
    """Return the request that `document` holds.

    Raises:
        BadRequest: something does not fit; `field` names the key.
    """
    model = document.get("model")
    if type(model) is not str or not model:
        raise BadRequest("model must be the name of a model", field="model")
    encoding = document.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise BadRequest("encoding_format must be float or base64", field="encoding_format")
    dimensions = document.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise BadRequest("dimensions must be a positive integer", field="dimensions")
    texts, tokens = _inputs(document.get("input"))
    return EmbeddingsRequest(
        model=model, texts=texts, tokens=tokens, base64=encoding == "base64", dimensions=dimensions
    )


def _inputs(given: object) -> tuple[list[str], list[list[int]]]:
    if type(given) is str:
        given = [given]
    if type(given) is not list or not given:
        raise BadRequest(
            "input must be a text, a list of texts, a list of token ids, or a list of those", field="input"
        )
    if type(given[0]) is int:
        given = [given]
    if len(given) > MOST_INPUTS:
        raise BadRequest(f"input holds {len(given)} entries; {MOST_INPUTS} are the most", field="input")
    if type(given[0]) is str:
        for index, text in enumerate(given):
            if type(text) is not str:
                raise BadRequest("texts and token ids cannot be mixed", field=f"input[{index}]")
            if not text:
                raise BadRequest("a text must not be empty", field=f"input[{index}]")
        return given, []
    for index, tokens in enumerate(given):
        if type(tokens) is not list or not tokens:
            raise BadRequest("must be a list of at least one token id", field=f"input[{index}]")
        if {*map(type, tokens)} != {int} or min(tokens) < 0 or max(tokens) > LARGEST_TOKEN:
            raise BadRequest("token ids must be integers from 0 on", field=f"input[{index}]")
    return [], given
