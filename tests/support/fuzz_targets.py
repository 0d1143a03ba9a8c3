"""What the fuzzer calls: every decoder that bytes from outside reach, as one function of bytes.

A case is one byte that chooses the decoder, three that stand for headers, and what is decoded. The only exceptions that
may come out are the ones that a client is answered with, or that drop a message: all others are defects.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from front_rig import MODELS, binary_body, input_tensor

from batchd_server.errors import ServingError
from batchd_server.front.documents import json_object
from batchd_server.front.items import prepared_items
from batchd_server.front.limits import inflate
from batchd_server.front.oip.raw_request import parse_raw_request
from batchd_server.front.oip.request import HEADER_LENGTH, header_length, parse_request
from batchd_server.front.oip.response import requested_outputs
from batchd_server.front.openai.embeddings import embedding_items
from batchd_server.front.openai.embeddings_request import parse_embeddings_request
from batchd_server.link.codec import (
    LinkError,
    decode_device_message,
    decode_front_message,
    encode,
    pack_tensors,
    unpack_tensors,
)
from batchd_server.link.item_shape import item_shape
from batchd_server.link.messages import Announce, Answers, ItemAnswer, ModelState, Offer, OfferedItem
from batchd_server.models.digit_lines.model import DigitLines
from batchd_server.models.protocol import Model
from batchd_server.models.spec import NUMPY_DTYPES, Array, Tensors

BODY_LIMIT = 2**20
"""Bytes that a body may have when inflated."""
PRIORITY_LEVELS = 3
MOST_ITEMS = 64
HEAD = struct.Struct("<BBH")
ENCODINGS = (None, "gzip", "deflate")
NO_LENGTH = 0xFFFF

_MODELS: dict[str, Model] = {**MODELS, "digit-lines": DigitLines()}
NAMES = tuple(_MODELS)


def run_case(data: bytes) -> None:
    """Decode one case, whatever it is.

    Raises:
        BaseException: only where a decoder is at fault.
    """
    with contextlib.suppress(ServingError, LinkError):
        decode_case(data)


def decode_case(data: bytes) -> None:
    """Decode one case.

    Raises:
        ServingError: a client would be told so.
        LinkError: the message would be dropped.
    """
    if len(data) < HEAD.size:
        return
    chosen, encoding, length = HEAD.unpack_from(data)
    body = data[HEAD.size :]
    if chosen < len(NAMES) * len(ENCODINGS):
        _infer(NAMES[chosen % len(NAMES)], body, ENCODINGS[encoding % len(ENCODINGS)], length)
    else:
        _OTHERS[chosen % len(_OTHERS)](body, length)


def is_message(chosen: int) -> bool:
    """Whether a case that begins with this byte is a message of the link: msgpack, not JSON."""
    return chosen >= len(NAMES) * len(ENCODINGS) and _OTHERS[chosen % len(_OTHERS)] is not _embeddings


def _infer(name: str, body: bytes, encoding: str | None, length: int) -> None:
    model = _MODELS[name]
    if encoding is not None:
        body = inflate(body, encoding, BODY_LIMIT)
        assert len(body) <= BODY_LIMIT
    json_length = header_length(None if length == NO_LENGTH else str(length), body)
    if json_length == 0:
        parsed = parse_raw_request(body, model.inputs)
    else:
        parsed = parse_request(body, json_length, priority_levels=PRIORITY_LEVELS)
    outputs = requested_outputs(parsed, model.outputs)
    assert {spec.name for _, spec in outputs} <= {spec.name for spec in model.outputs}
    assert 0 <= parsed.priority <= PRIORITY_LEVELS
    items = prepared_items(model, parsed.tensors, MOST_ITEMS)
    assert 0 < len(items) <= MOST_ITEMS
    for item in items:
        _survives_the_link(name, item)


def _survives_the_link(name: str, item: Tensors) -> None:
    """What a front takes, the device process must get unchanged."""
    frames: list[Any] = []
    shape = item_shape(_MODELS[name], item)
    offer = Offer(1, name, (OfferedItem(shape, pack_tensors(item, frames)),), 0.0, None, 0)
    header, *rest = encode(offer, frames)
    received = decode_front_message(header)
    assert received == offer
    for tensor, array in unpack_tensors(received.items[0].tensors, rest).items():
        assert _same(array, item[tensor])


def _same(one: Array, other: Array) -> bool:
    if one.dtype == object:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _front_message(body: bytes, length: int) -> None:
    message = decode_front_message(body[:length])
    if isinstance(message, Offer):
        for item in message.items:
            unpack_tensors(item.tensors, [body[length:], body])


def _device_message(body: bytes, length: int) -> None:
    message = decode_device_message(body[:length])
    if isinstance(message, Answers):
        for answer in message.answers:
            unpack_tensors(answer.tensors, [body[length:], body])


def _embeddings(body: bytes, length: int) -> None:
    asked = parse_embeddings_request(json_object(body))
    embedder: Any = MODELS["embedder"]
    for item in embedding_items(embedder, embedder, asked, MOST_ITEMS):
        _survives_the_link("embedder", item)


_OTHERS: tuple[Callable[[bytes, int], None], ...] = (_front_message, _device_message, _embeddings)


# ---- what the fuzzer begins with -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seed:
    """A case whose decoding succeeds."""

    name: str
    data: bytes


def case(model: str, body: bytes, *, encoding: str | None = None, length: int | None = None) -> bytes:
    """A request to a model."""
    head = HEAD.pack(NAMES.index(model), ENCODINGS.index(encoding), NO_LENGTH if length is None else length)
    return head + body


def other_case(decoder: Callable[[bytes, int], None], body: bytes, *, length: int | None = None) -> bytes:
    """A message or a body of embeddings."""
    first = next(
        number for number in range(len(NAMES) * len(ENCODINGS), 256) if _OTHERS[number % len(_OTHERS)] is decoder
    )
    return HEAD.pack(first, 0, len(body) if length is None else length) + body


def seeds() -> list[Seed]:
    """Valid cases of every kind: all datatypes as binary and as JSON, mixed, empty, raw, compressed, and messages."""
    found: list[Seed] = []
    for datatype, dtype in NUMPY_DTYPES.items():
        model = f"identity-{datatype.lower()}"
        raw = b"\x02\x00\x00\x00hi\x00\x00\x00\x00" if datatype == "BYTES" else np.ones(2, dtype=dtype).tobytes()
        found.append(_binary(f"binary-{datatype}", model, [("x", datatype, [1, 2], raw)]))
        if datatype != "FP16":
            values: list[Any] = {"b": [True, False], "O": ["a", ""]}.get(dtype.kind, [1, 0])
            document = {"inputs": [input_tensor("x", datatype, [1, 2], data=[values])], "id": "i"}
            found.append(Seed(f"json-{datatype}", case(model, orjson.dumps(document))))
        if datatype != "BYTES":
            found.append(Seed(f"raw-{datatype}", case(model, raw, length=0)))
    four = np.arange(4, dtype="<i8").tobytes()
    texts = b"\x02\x00\x00\x00hi\x03\x00\x00\x00you"
    found += [
        _binary("two-inputs", "concatenate", [("a", "INT64", [2, 2], four), ("b", "BYTES", [2], texts)]),
        _binary("an-option-left-out", "concatenate", [("a", "INT64", [2, 2], four)]),
        _mixed(four),
        _binary("embedder", "embedder", [("text", "BYTES", [1], b"\x02\x00\x00\x00hi")]),
        _binary("digits", "digit-lines", [("image", "FP32", [2, 8, 16], bytes(2 * 8 * 16 * 4))]),
        Seed("digits-raw", case("digit-lines", bytes(8 * 8 * 4), length=0)),
    ]
    document = orjson.dumps({"inputs": [input_tensor("x", "FP32", [1, 3], data=[1, 2.5, 3])]})
    found.append(Seed("gzip", case("scale", zlib.compress(document, wbits=31), encoding="gzip")))
    found.append(Seed("deflate", case("scale", zlib.compress(document), encoding="deflate")))
    found.append(Seed("parameters", case("scale", orjson.dumps(_everything()))))
    for name, given in (("text", "abc"), ("texts", ["a", "b"]), ("tokens", [1, 2]), ("token-lists", [[1], [2, 3]])):
        asked = {"model": "embedder", "input": given, "encoding_format": "float", "dimensions": 4, "user": "u"}
        found.append(Seed(f"embed-{name}", other_case(_embeddings, orjson.dumps(asked))))
    return found + _messages()


def seeds_by_decoder() -> list[list[bytes]]:
    """Return the seeds' bytes, those of requests to models together and those of every other decoder."""
    groups: dict[int, list[bytes]] = {}
    first = len(NAMES) * len(ENCODINGS)
    for seed in seeds():
        groups.setdefault(0 if seed.data[0] < first else seed.data[0], []).append(seed.data)
    return list(groups.values())


def _everything() -> dict[str, Any]:
    return {
        "id": "1",
        "inputs": [input_tensor("x", "FP32", [2, 1], data=[[1], [2]], parameters={})],
        "outputs": [{"name": "y", "parameters": {"binary_data": True, "classification": 1}}],
        "parameters": {"timeout": 1000, "priority": 1, "binary_data_output": False, "sequence_id": 0},
    }


def _binary(name: str, model: str, tensors: list[tuple[str, str, list[int], bytes]]) -> Seed:
    declared = [
        input_tensor(tensor, datatype, shape, parameters={"binary_data_size": len(blob)})
        for tensor, datatype, shape, blob in tensors
    ]
    document = {"inputs": declared, "parameters": {"binary_data_output": True}}
    body, headers = binary_body(document, *(blob for *_, blob in tensors))
    return Seed(name, case(model, body, length=int(headers[HEADER_LENGTH])))


def _mixed(four: bytes) -> Seed:
    declared = [
        input_tensor("a", "INT64", [2, 2], parameters={"binary_data_size": len(four)}),
        input_tensor("b", "BYTES", [2], data=["x", "y"]),
    ]
    body, headers = binary_body({"inputs": declared}, four)
    return Seed("mixed", case("concatenate", body, length=int(headers[HEADER_LENGTH])))


def _messages() -> list[Seed]:
    text = np.empty(2, dtype=object)
    text[:] = [b"hello", b""]
    found = [_message("announce", _device_message, Announce("i", 1, True, False, (ModelState("m", "READY"),)), b"")]
    for name, array in (("numbers", np.arange(3, dtype=np.float32)), ("texts", text)):
        frames: list[Any] = []
        refs = pack_tensors({"x": array}, frames)
        offer = Offer(1, "m", (OfferedItem((3,), refs),), 1.0, None, 0, request_id="r")
        answers = Answers((ItemAnswer(1, 0, refs), ItemAnswer(1, 1, error=(500, "code", "message", None))))
        found.append(_message(f"offer-{name}", _front_message, offer, bytes(frames[0])))
        found.append(_message(f"answers-{name}", _device_message, answers, bytes(frames[0])))
    return found


def _message(name: str, decoder: Callable[[bytes, int], None], message: Any, frame: bytes) -> Seed:
    header = bytes(encode(message)[0])
    return Seed(name, other_case(decoder, header + frame, length=len(header)))
