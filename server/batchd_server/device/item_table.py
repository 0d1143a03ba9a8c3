"""Whose item is whose: from item ids to the request, its front process and the tensors, until answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from batchd.item import Item, ItemId
from batchd_server.models.spec import Tensors


@dataclass(slots=True, kw_only=True)
class PendingRequest:
    """One request of which some items are not settled yet."""

    front: bytes
    number: int
    request_id: str = ""
    trace_id: str = ""
    open: set[ItemId] = field(default_factory=set)
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingItem:
    """One admitted item."""

    item: Item
    request: PendingRequest
    index: int
    tensors: Tensors


class ItemTable:
    """Every admitted item that has no answer yet."""

    def __init__(self) -> None:
        self._items: dict[ItemId, PendingItem] = {}
        self._requests: defaultdict[bytes, dict[int, PendingRequest]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[PendingItem]:
        return iter(self._items.values())

    def request(self, front: bytes, number: int, request_id: str = "", trace_id: str = "") -> PendingRequest:
        """Return the request of that number, a new one, with the ids that the log knows it by, if it is not known."""
        known = self._requests[front].get(number)
        if known is None:
            known = PendingRequest(front=front, number=number, request_id=request_id, trace_id=trace_id)
            self._requests[front][number] = known
        return known

    def add(self, pending: PendingItem) -> None:
        """Enter an item that was admitted."""
        self._items[pending.item.id] = pending
        pending.request.open.add(pending.item.id)

    def get(self, item_id: ItemId) -> PendingItem | None:
        """Return an item, or None where nobody waits for it any more."""
        return self._items.get(item_id)

    def settle(self, item_id: ItemId) -> PendingItem | None:
        """Take an item out; its request too where it was the last."""
        pending = self._items.pop(item_id, None)
        if pending is not None:
            request = pending.request
            request.open.discard(item_id)
            if not request.open:
                self._forget(request)
        return pending

    def drop_request(self, front: bytes, number: int) -> tuple[ItemId, ...]:
        """Take a whole request out and return its items."""
        request = self._requests[front].get(number) if front in self._requests else None
        if request is None:
            return ()
        dropped = tuple(request.open)
        for item_id in dropped:
            del self._items[item_id]
        request.open.clear()
        self._forget(request)
        return dropped

    def numbers_of(self, front: bytes) -> tuple[int, ...]:
        """Return the requests of a front process."""
        return tuple(self._requests.get(front, ()))

    def _forget(self, request: PendingRequest) -> None:
        requests = self._requests[request.front]
        requests.pop(request.number, None)
        if not requests:
            del self._requests[request.front]
