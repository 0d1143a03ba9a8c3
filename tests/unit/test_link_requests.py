"""The table of pending requests: nothing is lost, nothing is answered twice."""

from __future__ import annotations

import numpy as np
import pytest

from batchd_server.errors import DeadlineExceeded, QueueFull, ServingError, Unavailable
from batchd_server.link.codec import Frame, pack_tensors
from batchd_server.link.messages import ItemAnswer, Offer, OfferedItem, TensorRef
from batchd_server.link.request_table import MAX_LOSSES, PendingRequest, RequestTable


def _request(number: int, items: int = 1, deadline: float = 10.0) -> PendingRequest:
    offer = Offer(
        request=number,
        model="m",
        items=tuple(OfferedItem((1,), ()) for _ in range(items)),
        arrived=0.0,
        deadline=None,
        priority=0,
    )
    return PendingRequest(offer=offer, frames=[], deadline=deadline)


def _answer(request: int, index: int, value: float = 0.0) -> tuple[ItemAnswer, list[memoryview]]:
    frames: list[Frame] = []
    refs = pack_tensors({"y": np.array([value], dtype=np.float32)}, frames)
    return ItemAnswer(request, index, refs), [memoryview(frame) for frame in frames]


def test_a_request_is_settled_by_the_last_of_its_items_in_any_order() -> None:
    table = RequestTable()
    table.add(_request(1, items=3))

    assert table.settle(*_answer(1, 2, 2.0)) is None
    assert table.settle(*_answer(1, 0, 0.0)) is None
    settled = table.settle(*_answer(1, 1, 1.0))

    assert settled is not None
    assert settled.error is None
    assert [float(settled.request.outputs[index]["y"][0]) for index in range(3)] == [0.0, 1.0, 2.0]
    assert len(table) == 0


def test_one_failed_item_fails_the_request_with_its_error() -> None:
    table = RequestTable()
    table.add(_request(1, items=2))

    settled = table.settle(ItemAnswer(1, 1, error=(429, "queue_full", "too many", 2.5)), [])

    assert settled is not None
    assert isinstance(settled.error, QueueFull)
    assert (settled.error.message, settled.error.code, settled.error.retry_after_s) == ("too many", "queue_full", 2.5)
    assert table.settle(*_answer(1, 0)) is None, "the answer beside it is late"


def test_late_and_second_answers_change_nothing() -> None:
    table = RequestTable()
    table.add(_request(1, items=2))
    table.settle(*_answer(1, 0, 5.0))

    assert table.settle(*_answer(1, 0, 6.0)) is None
    assert table.settle(*_answer(7, 0)) is None
    settled = table.settle(*_answer(1, 1))
    assert settled is not None
    assert float(settled.request.outputs[0]["y"][0]) == 5.0


@pytest.mark.parametrize(
    "damaged", [ItemAnswer(1, 0, (TensorRef("y", "<f4", (1,), 3),)), ItemAnswer(1, 5), ItemAnswer(1, -1)]
)
def test_a_damaged_answer_fails_its_request_alone(damaged: ItemAnswer) -> None:
    table = RequestTable()
    table.add(_request(1))
    table.add(_request(2))

    settled = table.settle(damaged, [])

    assert settled is not None
    assert isinstance(settled.error, ServingError)
    assert table.settle(*_answer(2, 0)) is not None


def test_after_a_loss_what_was_aboard_is_held_again_in_order_of_arrival() -> None:
    table = RequestTable()
    for number in (1, 2, 3):
        table.add(_request(number))
    for number in (1, 3):
        _get(table, number).aboard = True

    assert [request.offer.request for request in table.held()] == [2]
    assert table.lose(now=1.0) == []
    assert [request.offer.request for request in table.held()] == [1, 2, 3]


def test_a_loss_after_the_deadline_is_told_so() -> None:
    table = RequestTable()
    table.add(_request(1, deadline=5.0))
    _get(table, 1).aboard = True

    (settled,) = table.lose(now=5.0)

    assert isinstance(settled.error, DeadlineExceeded)
    assert len(table) == 0


def test_a_request_that_was_aboard_at_too_many_losses_is_given_up() -> None:
    table = RequestTable()
    table.add(_request(1))
    table.add(_request(2))
    for _ in range(MAX_LOSSES - 1):
        _get(table, 1).aboard = True
        assert table.lose(now=0.0) == []
    _get(table, 1).aboard = True

    (settled,) = table.lose(now=0.0)

    assert settled.request.offer.request == 1
    assert isinstance(settled.error, Unavailable)
    assert [request.offer.request for request in table.held()] == [2], "it was never aboard"


def test_items_answered_before_a_loss_need_not_be_answered_again() -> None:
    table = RequestTable()
    table.add(_request(1, items=2))
    _get(table, 1).aboard = True
    table.settle(*_answer(1, 0, 1.0))
    table.lose(now=0.0)

    assert table.settle(*_answer(1, 1, 2.0)) is not None


def _get(table: RequestTable, number: int) -> PendingRequest:
    found = table.get(number)
    assert found is not None
    return found
