"""What a front makes of a device process's death, with a real socket in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted_device_rig import device_at, dispatcher_to, ended, request_of, until

from batchd_server.errors import ModelFailed
from batchd_server.link.messages import Fallen, Offer, RunningItem


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/link"


@pytest.mark.asyncio
async def test_what_ran_at_a_death_runs_alone_and_if_it_kills_again_it_is_told_so_and_not_tried_a_third_time(
    address: str,
) -> None:
    async with dispatcher_to(address) as dispatcher:
        with device_at(address, keeps=True) as lost:
            await until(lambda: dispatcher.state().ready)
            waiting = [asyncio.create_task(dispatcher.infer(request_of(value, timeout_s=60))) for value in range(3)]
            await until(lambda: len(lost.told(Offer)) == 3)
        assert [(offer.alone, offer.accepted) for offer in lost.told(Offer)] == [(False, False)] * 3
        guilty = RunningItem(lost.front, lost.told(Offer)[1].request, 0)
        first = Fallen(incarnation="first", exit=-11, running=(guilty,))
        with device_at(address, "second", keeps=True, fallen=(first,)) as second:
            await until(lambda: len(second.told(Offer)) == 3)
        assert [(offer.alone, offer.accepted) for offer in second.told(Offer)] == [
            (False, True),
            (True, True),
            (False, True),
        ]
        again = Fallen(incarnation="second", exit=-11, running=(guilty,))
        with device_at(address, "third", fallen=(first, again)) as third:
            results = await ended(asyncio.gather(*waiting, return_exceptions=True))
            with pytest.raises(ModelFailed):
                await dispatcher.infer(request_of(1))
            assert len(third.told(Offer)) == 2
    assert [getattr(each, "code", None) for each in results] == [None, "poison", None]


@pytest.mark.asyncio
async def test_suspects_that_are_alike_follow_once_the_first_of_them_is_answered(address: str) -> None:
    async with dispatcher_to(address) as dispatcher:
        with device_at(address, keeps=True) as lost:
            await until(lambda: dispatcher.state().ready)
            waiting = [asyncio.create_task(dispatcher.infer(request_of(7, timeout_s=60))) for _ in range(20)]
            await until(lambda: len(lost.told(Offer)) == 20)
        running = tuple(RunningItem(lost.front, offer.request, 0) for offer in lost.told(Offer)[:5])
        with device_at(address, "second", fallen=(Fallen(incarnation="first", exit=-9, running=running),)) as second:
            answers = await ended(asyncio.gather(*waiting))
            assert len(answers) == 20
            assert [offer.alone for offer in second.told(Offer)] == [True] + [False] * 19
