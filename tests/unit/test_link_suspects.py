"""Deaths of device processes as the table of requests lives through them: who is replayed, and who is guilty."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

import pytest
from link_rig import FRONT, fallen, pending_request, successor

from batchd_server.errors import DeadlineExceeded, ModelFailed, ServingError, Unavailable
from batchd_server.link.messages import Fallen, ItemAnswer, RunningItem
from batchd_server.link.request_table import MOST_LEFT, MOST_UNEXPLAINED, PendingRequest, RequestTable
from batchd_server.link.suspicions import DEATHS_IN_A_ROW, REMEMBERED_S, death_name, ended_itself

SEGFAULT, KILL = -signal.SIGSEGV, -signal.SIGKILL


@dataclass
class Life:
    """A front's table through the lives of device processes 1, 2, 3..."""

    table: RequestTable = field(default_factory=lambda: RequestTable(FRONT))
    device: int = 1
    now: float = 0.0

    def add(self, *numbers: int, items: int = 1, deadline: float = 1e9, value: float | None = None) -> None:
        for number in numbers:
            assert self.table.add(pending_request(number, items, deadline, value), self.now) is None
        self.board()

    def board(self) -> None:
        for request in self.table.held():
            request.aboard = self.table.may_board(request, self.now)

    def die(self, code: int | None, *running: int, **beside: str | bytes | tuple[str, ...]) -> dict[int, ServingError]:
        """The device process ends while the first items of these run; return who was told what by the next."""
        return self.succeed(fallen(self.device, code, *running, **beside))  # type: ignore[arg-type]

    def succeed(self, *deaths: Fallen) -> dict[int, ServingError]:
        settled = self.table.lose(str(self.device), self.now)
        self.device += 1
        settled += self.table.judge(successor(self.device, *deaths), self.now)
        self.board()
        assert all(settlement.error is not None for settlement in settled)
        return {each.request.offer.request: each.error for each in settled if each.error is not None}

    def get(self, number: int) -> PendingRequest:
        found = self.table.get(number)
        assert found is not None
        return found

    def alone(self, *numbers: int) -> list[bool]:
        return [self.get(number).message.alone for number in numbers]

    def answer(self, number: int, items: int = 1) -> None:
        for index in range(items):
            self.table.settle(ItemAnswer(number, index), [])
        assert self.table.get(number) is None


def fallen_at(device: int, *running: RunningItem) -> Fallen:
    return Fallen(incarnation=str(device), exit=SEGFAULT, running=running)


@pytest.fixture
def life() -> Life:
    return Life()


def test_what_was_aboard_is_held_again_in_order_of_arrival_and_has_been_accepted(life: Life) -> None:
    life.add(1, 2, 3)
    life.get(2).aboard = False
    assert life.table.lose("1", 0.0) == []
    assert [request.offer.request for request in life.table.held()] == [1, 2, 3]
    assert [life.get(number).message.accepted for number in (1, 2, 3)] == [True, False, True]


def test_what_is_late_when_its_process_dies_is_told_so_and_the_rest_is_not(life: Life) -> None:
    life.add(1, deadline=5.0)
    life.add(2, deadline=5.1)
    life.now = 5.0
    assert [type(error) for error in life.die(KILL).values()] == [DeadlineExceeded]
    assert life.get(2).aboard


def test_what_merely_waited_is_replayed_through_any_number_of_deaths(life: Life) -> None:
    life.add(1, 2)
    for _ in range(50):
        assert life.die(KILL) == {}
    assert life.alone(1, 2) == [False, False]


def test_of_a_crash_only_those_that_ran_are_suspects(life: Life) -> None:
    life.add(1, 2, 3, 4)
    assert life.die(SEGFAULT, 1, 3) == {}
    assert life.alone(1, 2, 3, 4) == [True, False, True, False]
    assert not life.get(1).offer.alone, "its own offer is as it was"


@pytest.mark.parametrize("code", [-signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, SEGFAULT, 75, 76, 9])
def test_a_suspect_that_crashes_alone_is_guilty(life: Life, code: int) -> None:
    life.add(1, 2)
    life.die(code, 1, 2)
    told = life.die(code, 1)
    assert list(told) == [1]
    assert (told[1].status, told[1].code) == (500, "poison")
    assert "this item ended the device process 2 times" in told[1].message
    assert death_name(code) in told[1].message
    life.answer(2)
    assert len(life.table) == 0


def test_two_guilty_ones_in_one_batch_are_both_found_in_four_lives(life: Life) -> None:
    life.add(1, 2, 3, 4)
    assert life.die(SEGFAULT, 1, 2, 3, 4) == {}
    assert list(life.die(SEGFAULT, 1)) == [1]
    life.answer(2)
    assert list(life.die(SEGFAULT, 3)) == [3]
    life.answer(4)
    assert len(life.table) == 0


def test_the_item_that_did_it_is_named(life: Life) -> None:
    life.add(1, items=3)
    items = tuple(RunningItem(FRONT, 1, index) for index in range(3))
    assert life.succeed(Fallen(incarnation="1", exit=SEGFAULT, running=items)) == {}
    told = life.succeed(Fallen(incarnation="2", exit=SEGFAULT, running=items[2:]))
    assert told[1].message.startswith("item 2 ended the device process 2 times, last by SIGSEGV")


@pytest.mark.parametrize("beside", [{"job": "job-1"}, {"beside": ("loading model x",)}])
def test_who_was_not_the_only_one_is_not_yet_guilty(life: Life, beside: dict[str, str]) -> None:
    life.add(1)
    assert life.die(SEGFAULT, 1) == {}
    assert life.die(SEGFAULT, 1, **beside) == {}  # type: ignore[arg-type]
    assert list(life.die(SEGFAULT, 1)) == [1]


@pytest.mark.parametrize("code", [KILL, -signal.SIGTERM, 0, None])
def test_who_is_killed_from_outside_is_guilty_only_after_many_deaths_in_a_row(life: Life, code: int | None) -> None:
    life.add(1)
    for _ in range(DEATHS_IN_A_ROW - 1):
        assert life.die(code, 1) == {}
    assert [error.code for error in life.die(code, 1).values()] == ["poison"]


def test_a_death_at_which_it_did_not_run_breaks_the_row(life: Life) -> None:
    life.add(1)
    for _ in range(20):
        for _ in range(DEATHS_IN_A_ROW - 1):
            assert life.die(KILL, 1) == {}
        assert life.die(KILL) == {}


def test_an_answer_acquits_and_its_like_has_company_again(life: Life) -> None:
    life.add(1, value=7.0)
    life.die(SEGFAULT, 1)
    life.add(2, value=7.0)
    assert life.alone(1) == [True]
    assert [request.offer.request for request in life.table.held()] == [2], "of its like, only one is tried"
    assert not life.table.acquitted()
    life.answer(1)
    assert life.table.acquitted()
    life.add(3, value=7.0)
    assert list(life.table.held()) == []
    assert life.alone(2, 3) == [False, False]


def test_equal_requests_in_one_batch_die_once(life: Life) -> None:
    life.add(1, 2, value=7.0)
    assert life.die(SEGFAULT, 1, 2) == {}
    assert life.die(KILL, 1) == {}
    told = life.die(SEGFAULT, 1)
    assert sorted(told) == [1, 2], "what is known of the one holds for the other"
    assert "3 times" in told[1].message


def test_who_comes_again_with_what_is_known_to_kill_is_refused_at_once_for_a_while(life: Life) -> None:
    life.add(1, value=666.0)
    life.die(SEGFAULT, 1)
    life.die(SEGFAULT, 1)
    again = life.table.add(pending_request(2, value=666.0), life.now)
    assert isinstance(again, ModelFailed)
    assert again.code == "poison"
    assert len(life.table) == 0
    assert life.table.add(pending_request(3, value=666.0, model="other"), life.now) is None
    assert life.table.add(pending_request(4, value=665.0), life.now) is None
    life.now += REMEMBERED_S + 1
    assert life.table.add(pending_request(5, value=666.0), life.now) is None


def test_who_gave_up_before_the_news_came_is_remembered_all_the_same(life: Life) -> None:
    life.add(1, value=666.0)
    life.table.lose("1", 0.0)
    assert life.table.remove(1) is not None, "its deadline passed while no device process was there"
    life.device = 2
    assert life.table.judge(successor(2, fallen(1, SEGFAULT, 1)), 1.0) == []
    life.add(2, value=666.0)
    assert life.alone(2) == [True]
    assert [error.code for error in life.die(SEGFAULT, 2).values()] == ["poison"]


def test_a_client_that_left_while_its_request_ran_leaves_its_guilt_behind(life: Life) -> None:
    for number in (1, 2):
        life.add(number, value=666.0)
        assert life.table.remove(number) is not None, "the client has gone"
        assert life.die(76, number) == {}
    again = life.table.add(pending_request(3, value=666.0), life.now)
    assert isinstance(again, ModelFailed)
    assert again.code == "poison"


@pytest.mark.parametrize("error", [(500, "model_failed", "bad", None), (504, "deadline_exceeded", "late", None)])
def test_an_item_whose_neighbour_failed_before_it_killed_is_guilty_all_the_same(
    life: Life, error: tuple[int, str, str, float | None]
) -> None:
    for number in (1, 2):
        life.add(number, items=2, value=666.0)
        settled = life.table.settle(ItemAnswer(number, 0, error=error), [])
        assert settled is not None
        assert len(life.table) == 0, "its client has been told, while its second item runs"
        assert life.succeed(fallen_at(life.device, RunningItem(FRONT, number, 1))) == {}
    again = life.table.add(pending_request(3, items=2, value=666.0), life.now)
    assert isinstance(again, ModelFailed)
    assert again.code == "poison"


def test_once_suspicions_are_old_contents_are_not_looked_at_any_more(life: Life) -> None:
    life.add(1, value=666.0)
    life.die(SEGFAULT, 1)
    life.table.remove(1)
    life.add(2)
    assert life.get(2).content is not None, "somebody is under suspicion"
    life.now += REMEMBERED_S + 1
    life.add(3)
    assert life.die(KILL) == {}
    assert life.get(3).content is None


def test_only_so_many_that_left_are_remembered(life: Life) -> None:
    for number in range(1, MOST_LEFT + 11):
        life.add(number)
        life.table.remove(number)
    for _ in range(3):
        life.die(76, 1)
    life.add(MOST_LEFT + 100, value=1.0)
    assert life.alone(MOST_LEFT + 100) == [False], "too long ago"


def test_a_process_that_never_met_this_front_does_not_hide_what_the_one_before_it_died_of(life: Life) -> None:
    life.add(1, 2)
    life.table.lose("1", 0.0)
    assert life.table.judge(successor(3, fallen(1, SEGFAULT, 1), fallen(2, KILL)), 0.0) == []
    life.board()
    assert life.alone(1, 2) == [True, False]


def test_another_fronts_requests_are_not_this_ones(life: Life) -> None:
    life.add(1)
    life.die(SEGFAULT, 1, front=b"another")
    assert life.alone(1) == [False]


def test_a_link_that_broke_is_no_death(life: Life) -> None:
    life.add(1)
    for _ in range(20):
        life.table.lose("1", 0.0)
        assert life.table.judge(successor(1), 0.0) == []
        life.board()
    assert life.alone(1) == [False]


@pytest.mark.parametrize("untold", [(), (Fallen(incarnation="1", exit=KILL, running=None),)])
def test_without_any_word_of_what_ran_nobody_has_company_and_nobody_is_tried_for_ever(
    untold: tuple[Fallen, ...],
) -> None:
    life = Life()
    life.add(1, 2)
    assert life.succeed(*untold) == {}
    assert life.alone(1, 2) == [True, True]
    life.answer(2)
    for _ in range(MOST_UNEXPLAINED - 2):
        assert life.succeed() == {}
    assert [type(error) for error in life.succeed().values()] == [Unavailable]


def test_exit_codes_tell_crashes_from_kills() -> None:
    assert not any(ended_itself(code) for code in (None, 0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -99))
    assert (death_name(None), death_name(SEGFAULT), death_name(-99), death_name(75)) == (
        "unknown cause",
        "SIGSEGV",
        "signal 99",
        "exit code 75",
    )
