"""What `make audit` makes of pip-audit's reports: it fails on a vulnerability, and says when it could ask nobody."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "audit.py"
SOUND = {"name": "sound", "version": "1", "vulns": []}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found"}
FLAWED = {
    "name": "flawed",
    "version": "2",
    "vulns": [
        {"id": "PYSEC-1", "fix_versions": ["2.1", "3"], "aliases": [], "description": ""},
        {"id": "PYSEC-2", "fix_versions": [], "aliases": [], "description": ""},
    ],
}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_vulnerability_fails_and_is_named_with_its_cure(audit: ModuleType) -> None:
    status, lines = audit.verdict({"dependencies": [SOUND, FLAWED, UNKNOWN], "fixes": []})
    assert status == 1
    assert lines == [
        "flawed 2: PYSEC-1, fixed in 2.1, 3",
        "flawed 2: PYSEC-2, fixed in no version",
        "2 packages audited, 1 unknown, 2 vulnerabilities",
    ]


def test_none_passes(audit: ModuleType) -> None:
    assert audit.verdict({"dependencies": [SOUND]}) == (0, ["1 packages audited, 0 unknown, 0 vulnerabilities"])


@pytest.mark.parametrize("dependencies", [[], [UNKNOWN, UNKNOWN]])
def test_where_nobody_knows_anything_it_says_so(audit: ModuleType, dependencies: list[object]) -> None:
    status, lines = audit.verdict({"dependencies": dependencies})
    assert status == 0
    assert lines[0].startswith("not audited: ")


def test_no_connection_is_told_from_a_failure(audit: ModuleType) -> None:
    status, lines = audit.outcome(1, "", "Traceback\nrequests.exceptions.ConnectionError: no route\n")
    assert (status, lines[0].startswith("not audited: the advisory service cannot be reached")) == (0, True)
    assert audit.outcome(1, "", "invalid requirements input")[0] == 1
    assert audit.outcome(2, "", "")[0] == 1
    assert audit.outcome(1, json.dumps({"dependencies": [FLAWED]}), "Found 2 known vulnerabilities")[0] == 1


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"probe": (0, ["not audited: x"])}, 0),
        ({"probe": (1, ["pip 24.0: PYSEC-3"]), "a": (0, ["fine"]), "b": (1, ["flawed"])}, 1),
        ({"probe": (0, ["1 packages audited"]), "a": (0, ["fine"]), "b": (0, ["fine"])}, 0),
    ],
)
def test_the_files_are_asked_about_only_where_somebody_answers(
    audit: ModuleType, answers: dict[str, tuple[int, list[str]]], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(path: str) -> tuple[int, list[str]]:
        asked.append(path if path in answers else "probe")
        return answers[asked[-1]]

    monkeypatch.setattr(audit, "audit", ask)
    assert audit.main(["a", "b"]) == expected
    assert asked == list(answers)
