"""What a model says of an item's size, made sure to be a shape before another process relies on it."""

from __future__ import annotations

import operator

from batchd.item import Shape
from batchd_server.link.codec import LinkError
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors

LARGEST_SIZE = 2**31 - 1


def item_shape(model: Model, item: Tensors) -> Shape:
    """Return the variable dimensions of a preprocessed item.

    Raises:
        LinkError: they are none. Sent on, they would be dropped unread, or would end the device process.
    """
    try:
        shape = tuple(operator.index(size) for size in model.shape(item))
    except TypeError as error:
        raise LinkError(f"its shape is not a tuple of whole numbers: {error}") from error
    except BaseException as error:  # user code: whatever it raises is an answer
        raise LinkError(f"its shape cannot be told: {type(error).__name__}") from error
    if not all(0 <= size <= LARGEST_SIZE for size in shape):
        raise LinkError(f"its shape {shape} has a size outside 0..{LARGEST_SIZE}")
    return shape
