"""Deadly requests among others, in whatever order and company: they alone are refused, and soon enough."""

from __future__ import annotations

import signal

from hypothesis import given, settings
from hypothesis import strategies as st
from link_rig import FRONT, pending_request, successor

from batchd_server.link.messages import Fallen, ItemAnswer, RunningItem
from batchd_server.link.request_table import RequestTable, Settlement

SEGFAULT, KILL = -signal.SIGSEGV, -signal.SIGKILL
MOST_KILLS = 2
"""From outside; with a death in bad company they are still fewer than it takes to convict anybody."""


class World:
    """One front, and device processes that die of some contents and of kills."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.deadly = data.draw(st.sets(st.integers(0, 5), max_size=3), label="deadly contents")
        self.table = RequestTable(FRONT)
        self.device = 1
        self.items: dict[int, int] = {}
        self.contents: dict[int, int] = {}
        self.told: dict[int, str] = {}
        self.crashes = self.kills = 0

    def arrive(self) -> None:
        number, content = len(self.contents) + 1, self.data.draw(st.integers(0, 5), label="content")
        self.contents[number] = content
        self.items[number] = self.data.draw(st.sampled_from((1, 1, 3)), label="items")
        refused = self.table.add(pending_request(number, self.items[number], value=float(content)), 0.0)
        if refused is not None:
            self.tell(number, refused.code)

    def tell(self, number: int, what: str) -> None:
        assert number not in self.told, "told twice"
        self.told[number] = what

    def turn(self) -> None:
        """The device process takes what is there, and runs a batch, which it may or may not survive."""
        for request in self.table.held():
            request.aboard = self.table.may_board(request, 0.0)
        pending = [(number, self.table.get(number)) for number in self.contents]
        aboard = [number for number, request in pending if request is not None and request.aboard]
        if not aboard:
            return
        first = self.data.draw(st.sampled_from(aboard), label="most urgent")
        found = self.table.get(first)
        assert found is not None
        if found.message.alone:
            left = [index for index in range(self.items[first]) if index not in found.outputs]
            batch = [(first, left[0])]
        else:
            shared = [number for number in aboard if not self.alone(number)]
            company = self.data.draw(st.sets(st.sampled_from(shared)), label="company") | {first}
            batch = [(number, index) for number in company for index in range(self.items[number])]
        if any(self.contents[number] in self.deadly for number, _ in batch):
            self.crashes += 1
            self.die(SEGFAULT, batch)
        elif self.kills < MOST_KILLS and self.data.draw(st.sampled_from((False, False, True)), label="killed"):
            self.kills += 1
            self.die(KILL, batch)
        else:
            for number, index in batch:
                settlement = self.table.settle(ItemAnswer(number, index), [])
                if settlement is not None:
                    self.settle([settlement])

    def alone(self, number: int) -> bool:
        found = self.table.get(number)
        return found is not None and found.message.alone

    def die(self, code: int, batch: list[tuple[int, int]]) -> None:
        running = tuple(RunningItem(FRONT, number, index) for number, index in batch)
        fallen = Fallen(incarnation=str(self.device), exit=code, running=running)
        self.settle(self.table.lose(str(self.device), 0.0))
        self.device += 1
        self.settle(self.table.judge(successor(self.device, fallen), 0.0))

    def settle(self, settlements: list[Settlement]) -> None:
        for each in settlements:
            self.tell(each.request.offer.request, "answered" if each.error is None else each.error.code)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_guilty_are_found_and_everybody_else_is_answered(data: st.DataObject) -> None:
    world = World(data)
    for arrivals in data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=8), label="arrivals"):
        for _ in range(arrivals):
            world.arrive()
        world.turn()
    for _ in range(200):
        if not len(world.table):
            break
        world.turn()
    assert len(world.table) == 0
    for number, content in world.contents.items():
        assert world.told[number] == ("poison" if content in world.deadly else "answered")
    met = {(content, world.items[number]) for number, content in world.contents.items() if content in world.deadly}
    assert world.crashes <= 2 * len(met), "each is found by its second death, whatever else dies with it"
