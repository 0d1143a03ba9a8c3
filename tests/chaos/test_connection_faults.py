"""Ten thousand connections that end badly, beside clients that notice nothing; and nothing of them is left."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from connection_faults import (
    HEAVY,
    LARGE_BYTES,
    MAX_BODY_BYTES,
    MAX_CONNECTIONS,
    MAX_HEADER_BYTES,
    MODEL,
    QUICK,
    SLOW,
    VERY_LARGE_BYTES,
    Fault,
    GoodClient,
    comes_with_all_its_friends,
    large_request,
    never_reads,
)
from connection_rig import Peer, until
from daemon_rig import daemon

log = logging.getLogger(__name__)

pytestmark = pytest.mark.slow

NUM_FAULTS = (4_000, 6_000)
"""In a first storm, in which the front's memory grows as far as so many connections at a time need it, and a second."""
AT_A_TIME = 60
SEED = 5
LONGEST_S = 60.0
SETTLED_S = 20.0
NUM_QUIET = 300
QUIET_LOOKS = 10
"""At the speed afterwards: the machine may be busy with something else for a while, but what is left behind stays."""
GROWTH_BYTES = 24 * 2**20
"""Of the front, in the second storm: what the allocator does not put into the gaps of the first."""
LARGE_AT_A_TIME = 3
ALLOWED = {200, 400, 404, 405, 408, 413, 415, 429, 431, 501, 503}
CONFIG = f"""
[server]
max_connections = {MAX_CONNECTIONS}
max_header_bytes = {MAX_HEADER_BYTES}
max_body_bytes = {MAX_BODY_BYTES}
header_timeout_s = 1.0
body_timeout_s = 1.0
min_body_rate = 100_000
send_timeout_s = 1.0
[device]
name = "cpu"
threads = 1
[models.double]
entrypoint = "double_model:Double"
[models.large]
entrypoint = "double_model:Double"
[defaults.batching]
slo_ms = 60000
"""


class Watcher:
    """What the daemon tells of its front, and what the system does."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)
        self._process = psutil.Process(self.status()["front"]["pid"])

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def status(self) -> dict[str, Any]:
        answer = self._client.get("/v1/status")
        assert answer.status_code == 200
        document: dict[str, Any] = answer.json()
        return document

    def counts(self) -> dict[str, int]:
        """Everything that a fault could leave behind."""
        front = self.status()["front"]
        kept = {name: front[name] for name in ("connections", "requests", "pending", "incoming_bytes", "tasks")}
        return kept | {"descriptors": self._process.num_fds()}

    def settle(self, before: dict[str, int]) -> None:
        """Wait until there is no more of anything than before."""
        give_up = time.monotonic() + SETTLED_S
        while left := {name: now - before[name] for name, now in self.counts().items() if now > before[name]}:
            assert time.monotonic() < give_up, f"still there after {SETTLED_S:g} s: {left}"
            time.sleep(0.1)

    def resident(self) -> int:
        return int(self._process.memory_info().rss)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "double_model.py").write_text(MODEL)
    with daemon(tmp_path, CONFIG) as running:
        yield running.url
        assert "Traceback" not in running.log.read_text()


async def quiet(address: tuple[str, int]) -> float:
    """The median of the answers' times in seconds, with one client alone."""
    medians = []
    for seed in range(3):
        client = GoodClient(address, seed)
        await client.ask(lambda took=client.took_s: len(took) < NUM_QUIET // 3)
        medians.append(statistics.median(client.took_s))
    return min(medians)


async def storm(address: tuple[str, int], num_faults: int, seed: int) -> tuple[int, dict[str, Counter[int]]]:
    """Make faults, and ask beside them; returns how many good answers came, and what each kind was answered."""
    rng = random.Random(seed)
    outcomes: dict[str, Counter[int]] = defaultdict(Counter)
    plan: list[Callable[[Fault], Awaitable[list[int]]]] = [
        *(SLOW * (num_faults // 100)),
        *(HEAVY * (num_faults // 50)),
        *([never_reads] * (num_faults // 500)),
        *([comes_with_all_its_friends] * (num_faults // 2000)),
    ]
    plan += [rng.choice(QUICK) for _ in range(num_faults - len(plan))]
    rng.shuffle(plan)
    waiting = iter(enumerate(plan))
    at_a_time = {comes_with_all_its_friends: asyncio.Semaphore(1), never_reads: asyncio.Semaphore(LARGE_AT_A_TIME)}

    async def work() -> None:
        for number, kind in waiting:
            try:
                fault = Fault(address, random.Random(seed + number))
                async with at_a_time.get(kind, nullcontext()), asyncio.timeout(LONGEST_S), fault:
                    statuses = await kind(fault)
            except ConnectionError:
                statuses = []  # turned away without a word: the limit of connections
            except TimeoutError:
                raise AssertionError(f"{kind.__name__}, number {number}, hangs") from None
            outcomes[kind.__name__].update(statuses)

    done = asyncio.Event()
    good = [GoodClient(address, seed) for seed in range(4)]
    asking = [asyncio.create_task(client.ask(lambda: not done.is_set())) for client in good]
    async with asyncio.timeout(200):
        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    done.set()
    await asyncio.gather(*asking)
    return sum(len(client.took_s) for client in good), outcomes


def test_ten_thousand_faults_leave_nothing_behind(url: str) -> None:
    with Watcher(url) as watcher:
        check(watcher, (str(urlsplit(url).hostname), int(urlsplit(url).port or 0)))


def check(watcher: Watcher, address: tuple[str, int]) -> None:
    asyncio.run(quiet(address))  # warm
    for num_bytes in (LARGE_BYTES, VERY_LARGE_BYTES) * 3:  # or their time would be a guess, and they might be refused
        with Peer(address) as peer:
            peer.send(large_request(num_bytes))
            assert peer.answers()[0].status == 200
    before_s = asyncio.run(quiet(address))
    until(lambda: watcher.counts()["connections"] == 1, "only the watcher is connected")
    before = watcher.counts()
    resident, answered, outcomes = [], 0, defaultdict[str, Counter[int]](Counter)
    begun = time.monotonic()
    for seed, num_faults in enumerate(NUM_FAULTS):
        answered_now, outcomes_now = asyncio.run(storm(address, num_faults, SEED + seed))
        watcher.settle(before)
        resident.append(watcher.resident())
        answered += answered_now
        for kind, statuses in outcomes_now.items():
            outcomes[kind].update(statuses)
    took_s = time.monotonic() - begun
    grown = resident[1] - resident[0]
    after_s = math.inf
    for _ in range(QUIET_LOOKS):
        after_s = min(after_s, asyncio.run(quiet(address)))
        if after_s < 3 * before_s + 0.005:
            break
    status = watcher.status()
    figures = (
        f"{took_s:.0f} s, {answered} good answers, {grown / 2**20:.1f} MiB grown, {before_s * 1e3:.2f} ms before, "
        f"{after_s * 1e3:.2f} ms after; ended: {status['front']['ended']}; answered: {dict(outcomes)}"
    )
    log.info(figures)

    assert answered > 100
    assert set().union(*outcomes.values()) <= ALLOWED
    for kind, status_code in (
        ("sends_too_much_of_a_head", 431),
        ("announces_too_much", 413),
        ("never_ends_its_head", 408),
        ("never_ends_its_body", 408),
        ("says_nothing", 408),
        ("speaks_nonsense", 400),
        ("comes_with_all_its_friends", 503),
    ):
        assert outcomes[kind][status_code] > 0, kind
        assert set(outcomes[kind]) - {200} <= {status_code, 503, 408}, kind
    assert status["front"]["ended"]["send_timeout"] >= outcomes["never_reads"][200] > 0
    assert grown < GROWTH_BYTES, figures
    assert after_s < 3 * before_s + 0.005, figures
