"""The trace of arrivals: what is written down, that it can be replayed, and that a broken file stops nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from batchd_client.loadtest.recorded_trace import read_trace
from batchd_server.link.messages import Offer, OfferedItem
from batchd_server.observe.arrival_trace import FLUSH_INTERVAL_S, ArrivalTrace


def offer(*shapes: tuple[int, ...], arrived: float = 100.0) -> Offer:
    items = tuple(OfferedItem(shape=shape, tensors=()) for shape in shapes)
    return Offer(request=1, model="m", items=items, arrived=arrived, deadline=None, priority=0)


def test_arrivals_are_written_as_the_replay_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "traces" / "today.jsonl"
    trace = ArrivalTrace(path)
    trace.record(offer((12,), arrived=100.0), 100.25)
    trace.record(offer((4, 6), (4, 6), (2, 2), arrived=101.5), 102.5)
    trace.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"t_s": 100.0, "model": "m", "size": 12, "shape": [12], "items": 1, "deadline_ms": 250.0},
        {"t_s": 101.5, "model": "m", "size": 24, "shape": [4, 6], "items": 2, "deadline_ms": 1000.0},
        {"t_s": 101.5, "model": "m", "size": 4, "shape": [2, 2], "items": 1, "deadline_ms": 1000.0},
    ]
    replayed = [(row.at, row.size, row.items, row.deadline_s) for row in read_trace(path)]
    assert replayed == [(0.0, 12, 1, 0.25), (1.5, 24, 2, 1.0), (1.5, 4, 1, 1.0)]


def test_what_was_recorded_can_be_read_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace = ArrivalTrace(path)
    trace.flush(50.0)
    trace.record(offer((3,)), 101.0)
    trace.flush(50.0 + FLUSH_INTERVAL_S / 2)
    assert path.read_text() == ""
    trace.flush(50.0 + FLUSH_INTERVAL_S)
    assert len(path.read_text().splitlines()) == 1
    trace.close()


def test_a_restart_goes_on_with_the_same_file(tmp_path: Path) -> None:
    for _ in range(2):
        trace = ArrivalTrace(tmp_path / "trace.jsonl")
        trace.record(offer((3,)), 101.0)
        trace.close()
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == 2


def test_no_file_records_nothing() -> None:
    trace = ArrivalTrace(None)
    trace.record(offer((3,)), 101.0)
    trace.flush(0.0)
    trace.close()


def test_a_file_that_cannot_be_opened_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        trace = ArrivalTrace(tmp_path / "file" / "trace.jsonl")
        trace.record(offer((3,)), 101.0)
    assert len(caplog.records) == 1
    assert "not recorded" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_the_recording_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    trace = ArrivalTrace(Path("/dev/full"))
    with caplog.at_level(logging.WARNING):
        trace.record(offer((3,)), 101.0)
        trace.flush(0.0)
        trace.record(offer((3,)), 101.0)
        trace.flush(10.0)
        trace.close()
    assert ["not recorded" in record.message for record in caplog.records] == [True]


def test_a_disk_that_takes_it_again_gets_whole_lines_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "place").write_text("a file in the way")
    path = tmp_path / "place" / "trace.jsonl"
    with caplog.at_level(logging.INFO):
        trace = ArrivalTrace(path)
        count = 0
        while len(caplog.records) < 2 and count < 5000:
            count += 1
            trace.record(offer((3,), arrived=100.0 + count), 500.0 + count)
            if count == 3000:
                (tmp_path / "place").unlink()
            trace.flush(count / 10)
        trace.close()
    first, second = (record.message for record in caplog.records)
    assert "not recorded" in first
    assert "recorded again" in second
    missing = int(second.split(";")[1].split()[0])
    kept = path.read_text().splitlines()
    assert len(kept) + missing == count
    assert all(json.loads(line)["model"] == "m" for line in kept)
    assert missing > 0
