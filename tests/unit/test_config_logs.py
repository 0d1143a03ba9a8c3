"""Log lines: one per event, for people or for machines, with role and the ids of the request."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd_server.observe.exceptions import one_line
from batchd_server.observe.hooks import install_hooks
from batchd_server.observe.log_context import MAX_IDS, batch_fields, serving
from batchd_server.observe.logs import JsonFormatter, LineHandler, TextFormatter, printable
from batchd_server.observe.repeats import BURST, MAX_PROBLEMS, Repeats


def _record(message: str, *arguments: object, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("batchd_server.x", level, "x.py", 1, message, arguments, None)
    vars(record).update(extra)
    return record


def _failed(error: BaseException) -> logging.LogRecord:
    """A record of `error` as a program would log it, caught and with its frames."""
    record = _record("failed")
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - of any kind
        record.exc_info = (type(caught), caught, caught.__traceback__)
    return record


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# ---- form ------------------------------------------------------------------------------------------------------------


def test_json_lines_carry_role_time_message_and_details() -> None:
    line = json.loads(JsonFormatter("device").format(_record("lost %d\nitems", 3, model="m")))
    assert line["message"] == "lost 3\nitems"
    assert (line["role"], line["level"], line["logger"], line["model"]) == ("device", "warning", "batchd_server.x", "m")
    assert line["time"].endswith("Z")


@given(st.text(), st.text())
def test_text_stays_one_printable_line_whatever_it_holds(message: str, detail: str) -> None:
    line = TextFormatter("front").format(_record("%s", message, detail=detail))
    assert line.splitlines() == [line]
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    assert "front[" in line
    assert json.loads(JsonFormatter("front").format(_record("%s", message)))["message"] == message.rstrip()


def test_values_with_spaces_are_quoted_so_that_no_field_can_be_forged() -> None:
    line = TextFormatter("front").format(_record("x", model="m status=200", code="c"))
    assert line.endswith('x model="m status=200" code=c')
    assert printable("\x1b[31m\u2028") == "\\x1b[31m\\u2028"


def test_an_exception_is_one_line_of_text_with_its_place_and_its_cause() -> None:
    try:
        try:
            json.loads("{")  # the innermost frame is Python's own
        except ValueError as error:
            raise RuntimeError("first\nsecond") from error
    except RuntimeError as error:
        record = _failed(error)
    line = TextFormatter("device").format(record)
    assert "\n" not in line
    place = rf"\({re.escape(__file__)}:\d+ in test_an_exception_is_one_line_of_text_with_its_place_and_its_cause\)"
    assert re.search(rf"failed: RuntimeError: first\\nsecond {place}", line)
    assert re.search(rf", from JSONDecodeError: Expecting .* {place}", line)


def test_the_place_is_named_from_the_package_on() -> None:
    with pytest.raises(ZeroDivisionError) as mine:
        Repeats(clock=lambda: 1 / 0).passed(_record("x"))
    assert re.search(rf" \({re.escape(__file__)}:\d+ in <lambda>\)", one_line(mine.value))
    with pytest.raises(AttributeError) as ours:
        JsonFormatter("front").format(None)  # type: ignore[arg-type]
    assert re.search(r" \(batchd_server/observe/logs\.py:\d+ in \w+\)", one_line(ours.value))


def test_the_whole_traceback_is_a_field_of_json_and_lines_of_text_at_debug() -> None:
    record = _failed(ValueError("broken"))
    line = json.loads(JsonFormatter("device").format(record))
    assert line["error"].startswith("ValueError: broken (")
    assert line["exception"].startswith("Traceback")
    assert "Traceback" not in TextFormatter("device").format(record)
    assert "\nTraceback" in TextFormatter("device", tracebacks=True).format(record)


def test_exceptions_that_cannot_say_what_they_are_and_groups_and_long_ones() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise OSError("no")

    assert one_line(Mute()) == "Mute: <its text cannot be had: OSError>"
    assert one_line(ExceptionGroup("both", [ValueError("a"), TypeError("b")])).endswith("[ValueError: a; TypeError: b]")
    assert len(one_line(ValueError("x" * 10_000))) < 400
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


# ---- on whose behalf -------------------------------------------------------------------------------------------------


def test_every_line_of_a_request_carries_its_ids() -> None:
    token = serving.set({"request_id": "abc", "trace_id": "t", "parent_id": "p"})
    try:
        line = json.loads(JsonFormatter("front").format(_record("x")))
        assert (line["request_id"], line["trace_id"], line["parent_id"]) == ("abc", "t", "p")
        assert TextFormatter("front").format(_record("x")).endswith("x request_id=abc trace_id=t parent_id=p")
    finally:
        serving.reset(token)
    assert "request_id" not in json.loads(JsonFormatter("front").format(_record("x")))


def test_a_batch_names_its_requests_once_and_not_too_many() -> None:
    assert batch_fields([("a", "t"), ("a", "t"), ("b", "")]) == {"request_ids": "a,b", "trace_ids": "t"}
    assert batch_fields([]) == batch_fields([("", "")]) == {}
    listed = batch_fields((str(number), "") for number in range(MAX_IDS + 3))["request_ids"]
    assert listed.split(",") == [*map(str, range(MAX_IDS)), "+3"]


# ---- repeats ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200), st.sampled_from([logging.INFO, logging.ERROR]))
def test_lines_and_counts_add_up_to_what_was_logged(gaps: list[float], level: int) -> None:
    clock = Clock()
    repeats = Repeats(clock)
    written = counted = pending = 0
    for gap in gaps:
        clock.now += gap
        left_out = repeats.passed(_record("again", level=level))
        if left_out is None:
            pending += 1
            continue
        assert left_out == pending
        written, counted, pending = written + 1, counted + left_out, 0
        assert written <= BURST + (clock.now - 100.0)
    assert written + counted + pending == len(gaps)
    assert repeats.passed(_record("again", level=level, model="another")) == 0


def test_debug_lines_are_never_left_out() -> None:
    repeats = Repeats(Clock())
    assert {repeats.passed(_record("x", level=logging.DEBUG)) for _ in range(5 * BURST)} == {0}


@pytest.mark.parametrize(
    "about", ["Fatal error on transport <UVTransport {}>\nhandle: {}", "Fatal error\nprotocol: {}"]
)
def test_objects_in_a_message_do_not_make_problems_of_their_own(about: str) -> None:
    repeats = Repeats(Clock())
    messages = (about.replace("{}", hex(0x7F3A_0000_1000 + number)) for number in range(5 * BURST))
    passed = [repeats.passed(_record(message)) for message in messages]
    assert passed == [0] * BURST + [None] * (4 * BURST)
    assert repeats.passed(_record("Fatal flaw on transport <UVTransport 0x7f>")) == 0


def test_the_problems_kept_apart_are_bounded() -> None:
    repeats = Repeats(Clock())
    for number in range(3 * MAX_PROBLEMS):
        assert repeats.passed(_record(f"new {number}")) == 0
    assert len(repeats._buckets) == MAX_PROBLEMS


def test_the_next_line_tells_how_many_were_left_out() -> None:
    stream = io.StringIO()
    handler = LineHandler(stream)
    handler.setFormatter(JsonFormatter("front"))
    clock = Clock()
    handler._repeats = Repeats(clock)
    for _ in range(BURST + 7):
        handler.handle(_record("again"))
    clock.now += 1.0
    handler.handle(_record("again"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == BURST + 1
    assert [line.get("suppressed") for line in lines] == [None] * BURST + [7]


# ---- what Python reports beside logging ------------------------------------------------------------------------------


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((sys, "excepthook"), (threading, "excepthook"), (sys, "unraisablehook")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr("faulthandler.enable", lambda **_: None)  # pytest has its own
    install_hooks()


@pytest.mark.usefixtures("hooks")
def test_what_nobody_caught_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Doomed:
        def __del__(self) -> None:
            raise ValueError("too late")

    Doomed()

    def fail() -> None:
        raise OSError("in a thread")

    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    sys.excepthook(RuntimeError, RuntimeError("the end"), None)
    told = {record.levelname: record for record in caplog.records}
    assert set(told) == {"WARNING", "ERROR", "CRITICAL"}
    assert "Doomed.__del__" in told["WARNING"].getMessage()
    assert "worker" in told["ERROR"].getMessage()
    assert all(record.exc_info for record in caplog.records)
