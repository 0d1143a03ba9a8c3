"""From parsed tensors to items that may queue: checked, counted, cut and preprocessed."""

from __future__ import annotations

from collections.abc import Sequence

from batchd_server.errors import BadRequest, ModelFailed, ServingError, TooLarge
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Array, Tensors
from batchd_server.models.validation import split_items


def check_num_items(num_items: int, limit: int, field: str = "inputs") -> None:
    """Refuse requests of too many items; `field` is what the protocol calls them.

    Raises:
        TooLarge: more than `limit`.
    """
    if num_items > limit:
        raise TooLarge(f"{num_items} items are more than the {limit} that one request may hold", field=field)


def prepared_items(model: Model, tensors: Sequence[tuple[str, Array]], limit: int, *, first: int = 0) -> list[Tensors]:
    """Check `tensors` (batch axis first) against the model's inputs, and preprocess each item.

    Raises:
        BadRequest: something does not fit; the message names the tensor, or the item counted from `first`.
        TooLarge: more than `limit` items.
        ModelFailed: the model's preprocessing raised something else than it should.
    """
    check_num_items(max((array.shape[0] for _, array in tensors if array.ndim), default=0), limit)
    prepared: list[Tensors] = []
    for index, item in enumerate(split_items(model.inputs, tensors), start=first):
        try:
            prepared.append(model.preprocess(item))
        except ValueError as error:
            raise BadRequest(f"item {index}: {error}", field="inputs") from error
        except ServingError:
            raise
        except BaseException as error:  # user code: whatever it raises is an answer, even sys.exit
            raise ModelFailed(f"item {index}: it could not be preprocessed: {type(error).__name__}") from error
    return prepared
