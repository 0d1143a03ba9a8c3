"""Who is told what when: hello, changes, heartbeats, and fronts that vanish."""

from __future__ import annotations

from collections.abc import Sequence

from batchd_server.device.announcing import HEARTBEAT_S, Announcing
from batchd_server.link.codec import Frame
from batchd_server.link.messages import Announce, DeviceMessage

LOADING = Announce(incarnation="a1", pid=1, ready=False, draining=False, models=())
READY = Announce(incarnation="a1", pid=1, ready=True, draining=False, models=())


class Link:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, DeviceMessage]] = []
        self.gone: set[bytes] = set()
        self.dead: set[int] = set()
        self.announcing = Announcing(self.send, process_lives=lambda pid: pid not in self.dead)

    def send(self, front: bytes, message: DeviceMessage, frames: Sequence[Frame] = ()) -> bool:
        if front in self.gone:
            return False
        self.sent.append((front, message))
        return True


def test_a_front_hears_of_the_state_at_once_on_change_and_every_second() -> None:
    link = Link()
    link.announcing.announce(LOADING, 100.0)
    link.announcing.seen(b"f", 7)
    assert link.sent == [(b"f", LOADING)]
    link.announcing.announce(LOADING, 100.5)
    assert len(link.sent) == 1, "nothing has changed"
    link.announcing.announce(READY, 100.6)
    assert link.sent[-1] == (b"f", READY)
    link.announcing.announce(READY, 100.6 + HEARTBEAT_S)
    assert len(link.sent) == 3
    link.announcing.seen(b"f", 7)
    assert len(link.sent) == 4, "every hello is answered"
    assert link.announcing.pids() == (7,)


def test_a_front_that_never_said_hello_is_told_all_the_same() -> None:
    link = Link()
    link.announcing.seen(b"f")
    link.announcing.announce(READY, 1.0)
    assert link.sent == [(b"f", READY)]
    assert link.announcing.pids() == ()


def test_fronts_that_are_gone_are_reported() -> None:
    link = Link()
    link.announcing.seen(b"left", 1)
    link.announcing.seen(b"killed", 2)
    link.announcing.seen(b"alive", 3)
    link.gone.add(b"left")
    link.dead.add(2)
    gone = link.announcing.announce(READY, 1.0)
    assert set(gone) == {b"left", b"killed"}
    for front in gone:
        link.announcing.forget(front)
    assert link.announcing.announce(LOADING, 2.0) == ()
    assert link.sent == [(b"alive", READY), (b"alive", LOADING)]
