"""The table of pending requests: nothing is lost, nothing is answered twice."""

from __future__ import annotations

import numpy as np
import pytest
from link_rig import pending_request

from batchd_server.errors import QueueFull, ServingError
from batchd_server.link.codec import Frame, pack_tensors
from batchd_server.link.messages import ItemAnswer, TensorRef
from batchd_server.link.request_table import RequestTable


def _answer(request: int, index: int, value: float = 0.0) -> tuple[ItemAnswer, list[memoryview]]:
    frames: list[Frame] = []
    refs = pack_tensors({"y": np.array([value], dtype=np.float32)}, frames)
    return ItemAnswer(request, index, refs), [memoryview(frame) for frame in frames]


def test_a_request_is_settled_by_the_last_of_its_items_in_any_order() -> None:
    table = RequestTable()
    table.add(pending_request(1, items=3), 0.0)

    assert table.settle(*_answer(1, 2, 2.0)) is None
    assert table.settle(*_answer(1, 0, 0.0)) is None
    settled = table.settle(*_answer(1, 1, 1.0))

    assert settled is not None
    assert settled.error is None
    assert [float(settled.request.outputs[index]["y"][0]) for index in range(3)] == [0.0, 1.0, 2.0]
    assert len(table) == 0


def test_one_failed_item_fails_the_request_with_its_error() -> None:
    table = RequestTable()
    table.add(pending_request(1, items=2), 0.0)

    settled = table.settle(ItemAnswer(1, 1, error=(429, "queue_full", "too many", 2.5)), [])

    assert settled is not None
    assert isinstance(settled.error, QueueFull)
    assert (settled.error.message, settled.error.code, settled.error.retry_after_s) == ("too many", "queue_full", 2.5)
    assert table.settle(*_answer(1, 0)) is None, "the answer beside it is late"


def test_late_and_second_answers_change_nothing() -> None:
    table = RequestTable()
    table.add(pending_request(1, items=2), 0.0)
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
    table.add(pending_request(1), 0.0)
    table.add(pending_request(2), 0.0)

    settled = table.settle(damaged, [])

    assert settled is not None
    assert isinstance(settled.error, ServingError)
    assert table.settle(*_answer(2, 0)) is not None
