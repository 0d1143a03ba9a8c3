"""Log lines: one per event, for people or for machines, with role and request id."""

from __future__ import annotations

import json
import logging

from batchd_server.observe.logs import JsonFormatter, TextFormatter, request_id


def _record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("batchd_server.x", logging.WARNING, "x.py", 1, message, arguments, None)
    vars(record).update(extra)
    return record


def test_json_lines_carry_role_time_message_and_details() -> None:
    line = json.loads(JsonFormatter("device").format(_record("lost %d\nitems", 3, model="m")))
    assert line["message"] == "lost 3\nitems"
    assert (line["role"], line["level"], line["logger"], line["model"]) == ("device", "warning", "batchd_server.x", "m")
    assert line["time"].endswith("Z")


def test_text_lines_stay_one_line_whatever_the_message_holds() -> None:
    line = TextFormatter("front").format(_record("bad name %s", "a\nERROR forged"))
    assert "\n" not in line
    assert "front[" in line


def test_every_line_of_a_request_carries_its_id() -> None:
    token = request_id.set("abc")
    try:
        assert json.loads(JsonFormatter("front").format(_record("x")))["request_id"] == "abc"
        assert TextFormatter("front").format(_record("x")).endswith("x request_id=abc")
    finally:
        request_id.reset(token)
    assert "request_id" not in json.loads(JsonFormatter("front").format(_record("x")))


def test_a_traceback_is_kept() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        record = _record("failed")
        record.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: broken" in json.loads(JsonFormatter("device").format(record))["exception"]
    assert "ValueError: broken" in TextFormatter("device").format(record)
