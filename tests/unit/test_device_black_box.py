"""The device process's black box: what is noted outlives it, and no note is ever half a note."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchd_server.device.black_box import FILE, MOST_EARLIER, PLACE_BYTES, BlackBox, fallen_before
from batchd_server.link.messages import Fallen, RunningItem
from batchd_server.supervisor.standing import DeviceStanding

ITEMS = tuple(RunningItem(b"front-1", 100 + number, 0) for number in range(5))


def last(directory: Path) -> Fallen:
    """How the process whose box lies there would be told to have ended."""
    return fallen_before(directory / FILE, DeviceStanding.read(directory))[-1]


def test_the_next_one_reads_what_ran_and_how_it_ended(tmp_path: Path) -> None:
    first = BlackBox.open(tmp_path)
    assert first.fallen == ()
    first.batch(ITEMS)
    DeviceStanding(state="restarting", last_exit=-signal.SIGSEGV, last_pid=os.getpid()).write(tmp_path)
    second = BlackBox.open(tmp_path)
    (told,) = second.fallen
    assert told == Fallen(incarnation=first.incarnation, exit=-signal.SIGSEGV, running=ITEMS)
    assert second.incarnation != first.incarnation


def test_what_is_over_did_not_run(tmp_path: Path) -> None:
    box = BlackBox.open(tmp_path)
    box.batch(ITEMS)
    box.batch_over()
    box.job("job-1")
    box.job_over()
    with box.beside("loading model m"):
        assert last(tmp_path).beside == ("loading model m",)
    assert last(tmp_path) == Fallen(incarnation=box.incarnation, exit=None, running=())


def test_batch_job_and_what_is_beside_them_are_told_apart(tmp_path: Path) -> None:
    box = BlackBox.open(tmp_path)
    with box.beside("one"), box.beside("two"):
        box.batch(ITEMS[:1])
        box.job("job-1")
        told = last(tmp_path)
    assert (told.running, told.job, told.beside) == (ITEMS[:1], "job-1", ("one", "two"))
    told = last(tmp_path)
    assert (told.running, told.job, told.beside) == (ITEMS[:1], "job-1", ())


def test_an_item_of_a_failed_batch_that_runs_again_is_alone_in_it(tmp_path: Path) -> None:
    box = BlackBox.open(tmp_path)
    box.batch(ITEMS)
    for position, item in enumerate(ITEMS):
        box.rerun(position)
        assert last(tmp_path).running == (item,)
    box.batch_over()
    assert last(tmp_path).running == ()


def test_whose_exit_code_it_is_decides_the_process_id(tmp_path: Path) -> None:
    BlackBox.open(tmp_path)
    DeviceStanding(state="restarting", last_exit=-11, last_pid=os.getpid() + 1).write(tmp_path)
    assert last(tmp_path).exit is None, "another process died since, before it had a box"
    DeviceStanding(state="restarting", last_exit=-11).write(tmp_path)
    assert last(tmp_path).exit == -11


def test_a_few_deaths_are_remembered_in_order_however_much_ran_at_them(tmp_path: Path) -> None:
    many = [RunningItem(b"front-of-some-length-%d" % (number % 7), number, number) for number in range(1500)]
    lives = []
    for _ in range(MOST_EARLIER + 4):
        box = BlackBox.open(tmp_path)
        box.batch(many)
        lives.append(box.incarnation)
    told = [each.incarnation for each in BlackBox.open(tmp_path).fallen]
    assert told == lives[-len(told) :]
    for _ in range(MOST_EARLIER + 4):
        box = BlackBox.open(tmp_path)
        lives.append(box.incarnation)
    told = [each.incarnation for each in BlackBox.open(tmp_path).fallen]
    assert told == lives[-MOST_EARLIER:]


def test_a_batch_that_cannot_be_noted_is_told_to_be_unknown(tmp_path: Path) -> None:
    box = BlackBox.open(tmp_path)
    box.batch([RunningItem(b"f" * 100, number, 0) for number in range(PLACE_BYTES // 100)])
    assert last(tmp_path).running is None
    box.batch_over()
    assert last(tmp_path).running == ()


def test_on_a_full_disk_it_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = BlackBox.open(tmp_path)
    first.batch(ITEMS)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    box = BlackBox.open(tmp_path)
    assert [each.running for each in box.fallen] == [ITEMS]
    box.batch(ITEMS[:2])
    box.batch_over()
    assert last(tmp_path).incarnation == first.incarnation


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_torn_note_leaves_the_one_before_it(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("box")
    box = BlackBox.open(directory)
    path = directory / FILE
    notes = data.draw(st.lists(st.lists(st.sampled_from(ITEMS), max_size=5).map(tuple), min_size=2, max_size=6))
    for note in notes[:-1]:
        box.batch(note)
    before = path.read_bytes()
    box.batch(notes[-1])
    after = path.read_bytes()
    changed = np.flatnonzero(np.frombuffer(after, np.uint8) != np.frombuffer(before, np.uint8)).tolist()
    # as if the write had stopped somewhere: what had been written by then, in whatever order, and the rest as it was
    written = data.draw(st.sets(st.sampled_from(changed))) if changed else set()
    torn = bytearray(before)
    for index in written:
        torn[index] = after[index]
    path.write_bytes(torn)
    expected = {True: {notes[-1]}, False: {notes[-2]}}[written == set(changed)]
    assert last(directory).running in expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_no_evidence_and_no_accident(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("box")
    box = BlackBox.open(directory)
    box.batch(ITEMS)
    path = directory / FILE
    content = bytearray(path.read_bytes()[: data.draw(st.integers(0, 9 * PLACE_BYTES))])
    for _ in range(data.draw(st.integers(0, 30))):
        if content:
            place = PLACE_BYTES * data.draw(st.integers(0, 7)) + data.draw(st.integers(0, 200))
            content[place % len(content)] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    for told in fallen_before(path, None):
        assert told.running in (ITEMS, (), None)
    BlackBox.open(directory).batch(ITEMS)
    assert last(directory).running == ITEMS


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "ctypes.string_at(0)", "os._exit(75)"])
def test_no_way_to_die_takes_it_along(tmp_path: Path, end: str) -> None:
    program = f"""
import ctypes, os, signal
from pathlib import Path
from batchd_server.device.black_box import BlackBox
from batchd_server.link.messages import RunningItem
BlackBox.open(Path({str(tmp_path)!r})).batch([RunningItem(b"f", 7, 3)])
{end}
"""
    died = subprocess.run([sys.executable, "-c", program], timeout=60, check=False, stderr=subprocess.DEVNULL)
    assert died.returncode != 0
    assert last(tmp_path).running == (RunningItem(b"f", 7, 3),)
