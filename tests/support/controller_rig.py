"""A controller that has been taught a law, and short ways to drive it."""

from batchd import Admitted, Completed, Controller, Item, ItemId, ModelPolicy, Multiples, RunBatch

NEVER = 1e9


def item(number: int, length: int = 8, *, at: float = 0.0, deadline: float = NEVER, priority: int = 0) -> Item:
    return Item(id=ItemId(number), model="m", shape=(length,), arrived=at, deadline=deadline, priority=priority)


def controller(**policy: object) -> Controller:
    made = Controller()
    made.add_model("m", ModelPolicy(**{"slo_s": 1.0, "ladder": Multiples(1), **policy}))  # type: ignore[arg-type]
    return made


def taught(seconds_per_element: float = 1e-3, fixed: float = 2e-3, **policy: object) -> Controller:
    """A controller that has seen enough batches to know the law and to allow large ones."""
    teacher, made = controller(), controller(**policy)
    number = 0
    for size in (1, 2, 4, 8, 16, 32):
        for length in (8, 64, 256):
            for _ in range(2):
                run_exactly(teacher, [item(number + i, length) for i in range(size)], fixed, seconds_per_element)
                number += size
    made.load_state_dict("m", teacher.state_dict("m"))
    return made


def run_exactly(made: Controller, items: list[Item], fixed: float, per_element: float) -> None:
    for one in items:
        assert isinstance(made.offer(one, 0.0), Admitted)
    remaining = len(items)
    while remaining:
        batch = launched(made, 0.0)
        seconds = fixed + batch.elements * per_element
        made.report(Completed(batch_id=batch.batch_id, seconds=seconds, peak_bytes=None))
        remaining -= len(batch.items)


def launched(made: Controller, now: float) -> RunBatch:
    decision = made.next(now)
    assert isinstance(decision, RunBatch)
    return decision
