"""Collects answers and sends them: one message per front process for all that one turn of the engine settled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from batchd_server.device.item_table import PendingItem
from batchd_server.errors import ModelFailed, ServingError
from batchd_server.link.codec import Frame, LinkError, pack_tensors
from batchd_server.link.messages import Answers, DeviceMessage, ItemAnswer
from batchd_server.models.spec import Tensors

Send = Callable[[bytes, DeviceMessage, Sequence[Frame]], bool]


@dataclass(slots=True)
class _Parcel:
    answers: list[ItemAnswer] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)


class Answering:
    """The way back to the front processes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._parcels: defaultdict[bytes, _Parcel] = defaultdict(_Parcel)

    def answer(
        self, pending: PendingItem, tensors: Tensors, *, batch_size: int, queue_s: float, compute_s: float
    ) -> bool:
        """Answer one item; False where the model's answer cannot be sent, then an error goes out instead."""
        parcel = self._parcels[pending.request.front]
        num_frames = len(parcel.frames)
        try:
            refs = pack_tensors(tensors, parcel.frames)
        except (LinkError, AttributeError, TypeError, ValueError) as error:  # not arrays, or of a strange dtype
            del parcel.frames[num_frames:]
            self.refuse(
                pending.request.front,
                pending.request.number,
                pending.index,
                ModelFailed(f"the model's answer cannot be sent: {error}"),
            )
            return False
        parcel.answers.append(
            ItemAnswer(
                request=pending.request.number,
                index=pending.index,
                tensors=refs,
                batch_size=batch_size,
                queue_s=queue_s,
                compute_s=compute_s,
            )
        )
        return True

    def refuse(self, front: bytes, request: int, index: int, error: ServingError) -> None:
        """Answer one item with an error."""
        described = (error.status, error.code, error.message, error.retry_after_s)
        self._parcels[front].answers.append(ItemAnswer(request=request, index=index, error=described))

    def flush(self) -> tuple[bytes, ...]:
        """Send what was collected and return the fronts that have gone."""
        parcels, self._parcels = self._parcels, defaultdict(_Parcel)
        return tuple(
            front
            for front, parcel in parcels.items()
            if not self._send(front, Answers(answers=tuple(parcel.answers)), parcel.frames)
        )
