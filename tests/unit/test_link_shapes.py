"""What a model may say of an item's size, before it goes over the link."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import numpy as np
import pytest

from batchd_server.errors import ModelFailed
from batchd_server.front.dispatcher import InferenceRequest
from batchd_server.front.link_dispatcher import LinkDispatcher
from batchd_server.link.messages import Announce, ModelState
from batchd_server.models.protocol import Model


class Claims:
    """A front half that says what it is told to say."""

    def __init__(self, shape: Any) -> None:
        self._shape = shape

    def shape(self, item: Any) -> Any:
        return self._shape


@pytest.mark.parametrize("shape", [(-5,), (1.5,), (10**30,), ("8",), 8, None])
def test_a_shape_that_is_none_fails_its_own_request_and_nothing_is_kept_of_it(shape: Any) -> None:
    dispatcher = LinkDispatcher("ipc:///nowhere", {"m": cast("Model", Claims(shape))})
    ready = Announce(incarnation="a", pid=1, ready=True, draining=False, models=(ModelState("m", "READY"),))
    dispatcher._device.hear(ready, time.monotonic())
    request = InferenceRequest(
        model="m", items=({"x": np.zeros(3)},), arrived=0.0, deadline=None, priority=0, api="native"
    )
    with pytest.raises(ModelFailed, match="shape"):
        asyncio.run(dispatcher.infer(request))
    assert len(dispatcher._table) == 0
    assert not dispatcher._futures
