"""What batchd promises about memory, on the simulated device: every byte counted, and real errors past the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_process_rig import Device, Front
from simulated_rig import MIB, hungry_device, hungry_settings

from batchd_server.config.settings import Settings

ELEMENT = 65_536
"""Bytes that `Hungry` takes per padded element, as it is configured here."""
RESERVE = 16 * MIB

Start = Callable[[Settings], Device]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    devices: list[Device] = []

    def start_one(settings: Settings) -> Device:
        devices.append(hungry_device(tmp_path / "device", settings))
        devices[-1].front.until(devices[-1].front.ready)
        return devices[-1]

    yield start_one
    for device in devices:
        device.close()


def offer_all(front: Front, lengths: Sequence[int], first: int = 0) -> None:
    for number, length in enumerate(lengths, start=first):
        front.offer(number, np.ones(length), model="hungry")


def decisions(front: Front) -> list[dict[str, Any]]:
    """All batches so far, oldest first."""
    found: list[dict[str, Any]] = front.control("decisions", limit=4096).result
    return found[::-1]


def budget(front: Front) -> dict[str, int]:
    found: dict[str, int] = front.control("status").result["budget"]
    return found


def failures(front: Front) -> dict[tuple[int, int], tuple[int, str, str, float | None]]:
    return {key: answer.error for key, (answer, _) in front.answers.items() if answer.error is not None}


def lognormal(count: int, seed: int) -> list[int]:
    drawn = np.random.default_rng(seed).lognormal(np.log(32), 0.8, count)
    return [int(length) for length in np.clip(np.round(drawn), 4, 256)]


@pytest.mark.parametrize("per_square", [0, 256])
def test_a_budget_never_seen_before_is_filled_and_not_overrun(start: Start, per_square: int) -> None:
    front = start(hungry_settings(memory_mib=512, weights=32 * MIB, per_square=per_square)).front
    lengths = lognormal(10_000, seed=per_square)
    memory = budget(front)
    assert memory["resident_bytes"] == 32 * MIB
    assert sum(lengths) * ELEMENT > 20 * memory["budget_bytes"]
    offer_all(front, lengths)
    front.until(lambda: len(front.answers) == len(lengths))

    assert failures(front) == {}
    batches = decisions(front)
    assert sum(batch["outcome"] == "out_of_memory" for batch in batches) <= 3
    ran = [batch for batch in batches if batch["outcome"] == "completed"]
    use = [(batch["peak_bytes"] + memory["resident_bytes"]) / memory["budget_bytes"] for batch in ran]
    assert 0.85 <= max(use) <= 1.0
    foretold = [batch for batch in ran if batch["predicted_bytes"] is not None]
    assert len(foretold) >= len(ran) - 2, "only the first of all is unforetold"
    assert all(batch["peak_bytes"] - batch["predicted_bytes"] <= RESERVE for batch in foretold)
    later = [abs(batch["predicted_bytes"] / batch["peak_bytes"] - 1) for batch in foretold[50:]]
    assert len(later) > 10, "too few batches to judge"
    assert statistics.median(later) <= 0.1


def test_a_neighbour_takes_half_and_gives_it_back(start: Start, tmp_path: Path) -> None:
    """A batch takes 50 ms, beside which what other processes do to it is little.

    Of batches of 5 ms, those of a busy moment can look dear enough for smaller ones to pay better than larger ones.
    """
    neighbour = tmp_path / "neighbour"
    front = start(hungry_settings(cost="0.05:0", neighbour=neighbour)).front
    traffic = Traffic(front)

    before = traffic.largest_batch_for(3.0, fewest=20)
    neighbour.write_text(str(512 * MIB))
    give_up = time.monotonic() + 10.0
    while budget(front)["budget_bytes"] != (1024 - 512) * MIB - RESERVE:
        assert time.monotonic() < give_up, "the neighbour was not noticed"
        traffic.largest_batch_for(0.1)
    during = traffic.largest_batch_for(2.0, since=time.monotonic(), fewest=20)
    neighbour.unlink()
    after = traffic.largest_batch_for(5.0, until=lambda size: size >= 0.9 * before)

    front.until(lambda: len(front.answers) == traffic.offered)
    assert failures(front) == {}
    assert 0.4 * before <= during <= 0.6 * before
    assert after >= 0.9 * before


class Traffic:
    """Keeps more items of one length waiting than any batch can take."""

    LENGTH = 32

    def __init__(self, front: Front) -> None:
        self._front = front
        self.offered = 0

    def largest_batch_for(
        self,
        seconds: float,
        *,
        since: float = 0.0,
        fewest: int = 0,
        until: Callable[[int], bool] = lambda size: False,
    ) -> int:
        """Keep it up, and return the largest batch launched meanwhile, after `since`; stop early if `until` says so.

        Go on for up to a minute until `fewest` are done, however long the machine stood still meanwhile.
        """
        started = time.monotonic()
        sizes: list[int] = []
        while not until(max(sizes, default=0)):
            if time.monotonic() >= started + (60.0 if len(sizes) < fewest else seconds):
                break
            missing = 1500 - (self.offered - len(self._front.answers))
            if missing > 0:
                offer_all(self._front, [self.LENGTH] * missing, first=self.offered)
                self.offered += missing
            sizes = [
                batch["batch_size"]
                for batch in self._front.control("decisions", limit=200).result
                if batch["launched"] >= max(since, started) and batch["outcome"] == "completed"
            ]
        return max(sizes, default=0)


def test_an_item_too_large_for_the_device_fails_alone_and_says_what_would_fit(start: Start) -> None:
    front = start(hungry_settings(memory_mib=256, cost="0.05:0")).front
    fits = (256 * MIB - RESERVE) // ELEMENT
    offer_all(front, [32] * 40)
    front.until(lambda: len(front.answers) == 40)
    for number in range(40, 60):
        front.offer(number, np.ones(5000 if number == 45 else 2000), model="hungry")
    front.until(lambda: len(front.answers) == 60)

    assert set(failures(front)) == {(45, 0)}
    status, code, message, _ = front.error(45)
    assert (status, code) == (507, "insufficient_memory")
    learned = int(message.split("items of up to ")[1].split()[0])
    assert 2000 <= learned <= fits

    ran = len(decisions(front))
    front.offer(60, np.ones(5000), model="hungry")
    front.offer(61, np.ones(learned), model="hungry")
    front.until(lambda: len(front.answers) == 62)
    assert front.error(60)[:2] == (507, "insufficient_memory")
    assert "ran out of memory alone" in front.error(60)[2], "it is not tried again"
    assert len(front.output(61)) == learned
    assert len(decisions(front)) == ran + 1


def test_an_error_bounds_its_cell_and_disturbs_no_other(start: Start, tmp_path: Path) -> None:
    """The neighbour grows unseen by the sampler: only the error tells."""
    neighbour = tmp_path / "neighbour"
    front = start(hungry_settings(cost="0.001:0", neighbour=neighbour)).front
    offer_all(front, [64] * 1500 + [8] * 200)
    front.until(lambda: len(front.answers) == 1700)
    known = len(decisions(front))

    # While the first batch runs all of these queue, and the next one takes all the memory that was there a moment ago.
    free = budget(front)["headroom_bytes"]
    neighbour.write_text(str(free - 100 * MIB))
    offer_all(front, [64] * 1500 + [8] * 200, first=1700)
    front.until(lambda: len(front.answers) == 3400)

    assert failures(front) == {}
    after = decisions(front)[known:]
    lost = [batch for batch in after if batch["outcome"] == "out_of_memory"]
    assert len({(batch["batch_size"], tuple(batch["padded_shape"])) for batch in lost}) == len(lost)
    assert len(lost) <= 3
    assert all(batch["peak_bytes"] <= 116 * MIB for batch in after if batch["outcome"] == "completed")
    assert {tuple(batch["padded_shape"]) for batch in after if batch["outcome"] == "completed"} == {(64,), (8,)}
