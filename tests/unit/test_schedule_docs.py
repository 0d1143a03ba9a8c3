"""The page about schedules says what the code does."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from batchd.governor import GovernorSettings
from batchd.lr_rules import LR_RULES, lr_rule_schema
from batchd.schedules import SCHEDULES, schedule_schema

PAGE = (Path(__file__).parents[2] / "docs" / "training-schedules.md").read_text()
MOVES = ("move", "factor", "increment", "gain", "patience")


def rows(heading: str) -> dict[str, str]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `")}


def cells(schema: dict[str, Any]) -> dict[str, str]:
    return {name: f"`{name} = {json.dumps(entry['default'])}`" for name, entry in schema["properties"].items()}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_documented_with_its_parameters(name: str) -> None:
    row, schedule = rows("Schedules")[name], SCHEDULES[name]
    for parameter, cell in cells(schedule_schema(name)).items():
        shared = parameter in MOVES and "and of moves" in row
        assert cell in (PAGE if shared else row)
    documented = set(re.findall(r"`([a-z_]+) = ", row.split(" | ")[2]))
    assert documented <= set(cells(schedule_schema(name)))
    assert f"| {', '.join(sorted(schedule.needs)) or '-'} | {schedule.unit} |" in row


@pytest.mark.parametrize("name", LR_RULES)
def test_a_learning_rate_rule_is_documented_with_its_parameters(name: str) -> None:
    row = rows("Learning-rate rules")[name]
    assert [cell for cell in cells(lr_rule_schema(name)).values() if cell not in row] == []


def test_the_page_lists_nothing_else() -> None:
    assert set(rows("Schedules")) == set(SCHEDULES)
    assert set(rows("Learning-rate rules")) == set(LR_RULES)


def test_every_setting_of_the_governor_is_documented() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", "\n".join(row.split(" | ")[0] for row in rows("Governor").values())))
    assert listed == {entry.name for entry in fields(GovernorSettings) if entry.init} - {"bounds"}
