"""docs/configuration.md and the settings say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from batchd_server.config.settings import (
    BatchingSettings,
    DeviceSettings,
    KeySettings,
    LadderSettings,
    ModelSettings,
    Section,
    SecuritySettings,
    ServerSettings,
    SimulatedDeviceSettings,
    StateSettings,
    TrainingSettings,
)

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("[server]", ServerSettings),
        ("[security]", SecuritySettings),
        ("[[security.keys]]", KeySettings),
        ("[device]", DeviceSettings),
        ("[device.simulated]", SimulatedDeviceSettings),
        ("[models.NAME]", ModelSettings),
        ("[models.NAME.batching]", BatchingSettings),
        ("[state]", StateSettings),
        ("[training]", TrainingSettings),
    ],
)
def test_every_setting_is_in_the_table_of_its_section_and_nothing_else(heading: str, section: type[Section]) -> None:
    part = re.split(r"\n##+ ", TEXT.partition(f"## `{heading}`")[2])[0]
    rows = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
    assert rows == list(section.model_fields)


@pytest.mark.parametrize("section", [ServerSettings, DeviceSettings, TrainingSettings])
def test_simple_defaults_are_the_ones_in_the_tables(section: type[Section]) -> None:
    for name, field in section.model_fields.items():
        if field.default is not None and not isinstance(field.default, Section):
            shown = json.dumps(field.default)  # as TOML has texts, numbers and truth values
            assert f"| `{name}` | `{shown}` |" in TEXT


def test_the_keys_of_a_ladder_are_named() -> None:
    assert all(f"`{name}`" in TEXT for name in LadderSettings.model_fields)
