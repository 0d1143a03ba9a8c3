"""Whatever bytes arrive, the codec gives a message or a LinkError; and what is packed is unpacked the same."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from batchd_server.link.codec import (
    LinkError,
    decode_device_message,
    decode_front_message,
    encode,
    pack_tensors,
    unpack_tensors,
)
from batchd_server.link.messages import (
    Announce,
    Answers,
    Cancel,
    Control,
    ControlReply,
    Goodbye,
    Hello,
    ItemAnswer,
    ModelState,
    Observations,
    Offer,
    OfferedItem,
    TensorRef,
)

INT = st.integers(-(2**62), 2**62)
TEXT = st.text(max_size=8)
FLOAT = st.floats(allow_nan=False)
SHAPE = st.lists(st.integers(0, 2**62), max_size=3).map(tuple)
REF = st.builds(TensorRef, TEXT, st.sampled_from(["<f4", "bytes", "|O", ">f4", "V8", "|S3", "nonsense"]), SHAPE, INT)
ITEM = st.builds(OfferedItem, SHAPE, st.lists(REF, max_size=2).map(tuple))
JSON = st.recursive(
    st.none() | st.booleans() | INT | FLOAT | TEXT, lambda inner: st.dictionaries(TEXT, inner), max_leaves=4
)

FRONT_MESSAGE = st.one_of(
    st.builds(Hello, INT),
    st.builds(Offer, INT, TEXT, st.lists(ITEM, max_size=2).map(tuple), FLOAT, st.none() | FLOAT, INT),
    st.builds(Cancel, INT),
    st.builds(Control, INT, st.sampled_from(["load", "status"]), st.dictionaries(TEXT, JSON, max_size=2)),
    st.builds(Observations, st.lists(st.tuples(TEXT, TEXT, TEXT, FLOAT, FLOAT), max_size=2).map(tuple)),
    st.builds(Goodbye),
)
ERROR = st.tuples(INT, TEXT, TEXT, st.none() | FLOAT)
ANSWER = st.builds(ItemAnswer, INT, INT, st.lists(REF, max_size=2).map(tuple), st.none() | ERROR, INT, FLOAT, FLOAT)
MODEL = st.builds(ModelState, TEXT, st.sampled_from(["READY", "LOADING"]), TEXT, FLOAT)
DEVICE_MESSAGE = st.one_of(
    st.builds(Announce, TEXT, INT, st.booleans(), st.booleans(), st.lists(MODEL, max_size=2).map(tuple)),
    st.builds(Answers, st.lists(ANSWER, max_size=2).map(tuple)),
    st.builds(ControlReply, INT, JSON, st.none() | st.tuples(INT, TEXT, TEXT)),
)


@given(FRONT_MESSAGE)
def test_front_messages_survive(message: Any) -> None:
    assert decode_front_message(encode(message)[0]) == message


@given(DEVICE_MESSAGE)
def test_device_messages_survive(message: Any) -> None:
    assert decode_device_message(encode(message)[0]) == message


@given(st.binary(max_size=64) | JSON.map(msgspec.msgpack.encode))
def test_any_bytes_are_a_message_or_a_link_error(header: bytes) -> None:
    for decode in (decode_front_message, decode_device_message):
        with contextlib.suppress(LinkError):
            assert decode(header) is not None


@given(FRONT_MESSAGE, st.data())
def test_damaged_messages_are_a_message_or_a_link_error(message: Any, data: st.DataObject) -> None:
    header = bytearray(encode(message)[0])
    position = data.draw(st.integers(0, len(header) - 1))
    header[position] = data.draw(st.integers(0, 255))
    del header[data.draw(st.integers(1, len(header))) :]
    with contextlib.suppress(LinkError):
        assert decode_front_message(bytes(header)) is not None


def test_deep_nesting_is_a_link_error() -> None:
    with pytest.raises(LinkError):
        decode_device_message(b"\x82\xa4type\xadcontrol_reply\xa6result" + b"\x91" * 100_000)


NUMBERS = arrays.arrays(
    dtype=st.sampled_from(["?", "<f2", "<f4", "<f8", ">f4", "<i1", "<i8", ">i4", "<u2", "<u8", "<c8"]),
    shape=arrays.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4),
)
STRINGS = st.lists(st.binary(max_size=5), max_size=6).map(lambda parts: np.array([*parts, None], dtype=object)[:-1])


@given(st.dictionaries(TEXT, NUMBERS | STRINGS, max_size=3), st.booleans())
def test_tensors_survive(tensors: dict[str, np.ndarray], transposed: bool) -> None:
    sent = {name: array.T if transposed else array for name, array in tensors.items()}
    frames: list[Any] = [b"a frame of another item"]
    refs = pack_tensors(sent, frames)
    received = unpack_tensors(refs, [memoryview(frame) for frame in frames])
    assert list(received) == list(sent)
    for name, array in sent.items():
        assert received[name].shape == array.shape
        assert received[name].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(received[name], array)


@given(st.lists(REF, max_size=3), st.lists(st.binary(max_size=32), max_size=3))
def test_any_references_to_any_frames_are_tensors_or_a_link_error(refs: list[TensorRef], frames: list[bytes]) -> None:
    with contextlib.suppress(LinkError):
        for ref, array in zip(refs, unpack_tensors(refs, frames).values(), strict=False):
            assert array.size == math.prod(array.shape)
            assert ref.dtype in ("<f4", "bytes")


@given(st.integers(0, 40), st.binary(max_size=40))
def test_lying_byte_strings_are_tensors_or_a_link_error(count: int, frame: bytes) -> None:
    with contextlib.suppress(LinkError):
        array = unpack_tensors([TensorRef("x", "bytes", (count,), 0)], [frame])["x"]
        assert sum(4 + len(element) for element in array) == len(frame)


@pytest.mark.parametrize("array", [np.array(["text"], dtype=object), np.array(["text"]), np.array([(1,)], dtype="i4,")])
def test_what_the_link_does_not_carry_is_refused_by_name(array: np.ndarray) -> None:
    with pytest.raises(LinkError, match="'x'"):
        pack_tensors({"x": array}, [])


def test_numeric_tensors_are_not_copied() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    frames: list[Any] = []
    refs = pack_tensors({"x": array}, frames)
    assert np.shares_memory(unpack_tensors(refs, frames)["x"], array)


def test_values_that_only_look_plain_are_sent_as_what_they_mean() -> None:
    class Version(str):
        __slots__ = ()

    reply = ControlReply(1, result={"torch": Version("2.6"), "loss": np.float32(0.5), "steps": np.int64(3)})
    assert decode_device_message(encode(reply)[0]) == ControlReply(1, result={"torch": "2.6", "loss": 0.5, "steps": 3})
    with pytest.raises(LinkError, match="ControlReply"):
        encode(ControlReply(1, result=object()))
