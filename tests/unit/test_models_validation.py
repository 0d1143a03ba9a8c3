"""What a client may send, and how it is told what it may not."""

from __future__ import annotations

import numpy as np
import pytest

from batchd_server.errors import BadRequest
from batchd_server.models.spec import Array, TensorSpec
from batchd_server.models.validation import split_items

IMAGE = TensorSpec(name="image", datatype="FP32", shape=(8, "width"), finite=True, max_size=32)
MARKS = TensorSpec(name="marks", datatype="INT64", shape=("width",), optional=True)
TEXT = TensorSpec(name="text", datatype="BYTES", shape=())


def image(items: int = 2, height: int = 8, width: int = 16) -> Array:
    return np.ones((items, height, width), dtype=np.float32)


def with_value(value: float) -> Array:
    array = np.ones((2, 8, 16), dtype=np.float32)
    array[1, 3, 5] = value
    return array


def test_items_are_the_rows_of_every_tensor() -> None:
    pixels = np.arange(2 * 8 * 4, dtype=np.float32).reshape(2, 8, 4)
    marks = np.arange(8, dtype=np.int64).reshape(2, 4)
    items = split_items([IMAGE, MARKS], {"image": pixels, "marks": marks})
    assert len(items) == 2
    for index, item in enumerate(items):
        np.testing.assert_array_equal(item["image"], pixels[index])
        np.testing.assert_array_equal(item["marks"], marks[index])


def test_an_optional_tensor_may_be_left_out() -> None:
    (item,) = split_items([IMAGE, MARKS], {"image": image(items=1)})
    assert set(item) == {"image"}


def test_scalar_bytes_stay_arrays_of_shape_empty() -> None:
    texts = np.array([b"one", b"two"], dtype=object)
    items = split_items([TEXT], {"text": texts})
    assert [item["text"].shape for item in items] == [(), ()]
    assert [item["text"].item() for item in items] == [b"one", b"two"]


REFUSED: dict[str, tuple[dict[str, Array], str, str]] = {
    "unknown name": ({"image": image(), "picture": image()}, "picture", "'image' (FP32 [-1, 8, -1])"),
    "missing": ({"marks": np.ones((2, 16), dtype=np.int64)}, "image", "missing"),
    "nothing at all": ({}, "image", "missing"),
    "wrong dtype": ({"image": image().astype(np.float64)}, "image", "FP32"),
    "other byte order": ({"image": image().astype(">f4")}, "image", "FP32"),
    "wrong rank": ({"image": np.ones((2, 8), dtype=np.float32)}, "image", "3 axes"),
    "no axes": ({"image": np.float32(1).reshape(())}, "image", "3 axes"),
    "fixed axis": ({"image": image(height=9)}, "image", "[-1, 8, -1]"),
    "no items": ({"image": image(items=0)}, "image", "at least 1"),
    "empty variable axis": ({"image": image(width=0)}, "image", "at least 1"),
    "over the largest size": ({"image": image(width=33)}, "image", "32 at most, got 33"),
    "NaN": ({"image": with_value(np.nan)}, "image", "item 1"),
    "infinity": ({"image": with_value(-np.inf)}, "image", "item 1"),
    "unequal items": ({"image": image(), "marks": np.ones((3, 16), dtype=np.int64)}, "marks", "3 items"),
    "axis names that disagree": ({"image": image(), "marks": np.ones((2, 17), dtype=np.int64)}, "marks", "'width'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_with_its_field(case: str) -> None:
    tensors, field, hint = REFUSED[case]
    with pytest.raises(BadRequest) as caught:
        split_items([IMAGE, MARKS], tensors)
    assert caught.value.field == field
    assert hint in caught.value.message


def test_a_name_sent_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match="twice") as caught:
        split_items([IMAGE], [("image", image()), ("image", image())])
    assert caught.value.field == "image"


def test_no_tensor_at_all_is_refused_even_where_every_one_is_optional() -> None:
    with pytest.raises(BadRequest, match="no inputs"):
        split_items([MARKS], {})


def test_elements_of_a_bytes_tensor_must_be_bytes() -> None:
    with pytest.raises(BadRequest, match="bytes") as caught:
        split_items([TEXT], {"text": np.array([b"one", 2], dtype=object)})
    assert caught.value.field == "text"


@pytest.mark.parametrize(("sent", "name"), [(np.ones((1, 8, 4)), "FP64"), (np.full((1, 8, 4), b"x", object), "BYTES")])
def test_a_wrong_datatype_is_told_in_the_protocols_words(sent: Array, name: str) -> None:
    with pytest.raises(BadRequest, match=f"must be FP32, got {name}"):
        split_items([IMAGE], {"image": sent})
