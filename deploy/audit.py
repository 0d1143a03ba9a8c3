"""Asks whether the pinned versions have known vulnerabilities: `python deploy/audit.py constraints.txt`.

Runs pip-audit, from the environment that runs this, without installing or resolving anything. Exit status: 0 none is
known, or nobody can be asked, which is said; 1 some have, or the audit itself failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

TIMEOUT_S = 120.0
PROBE = "pip==24.0\n"
"""What every advisory service knows. Where this one does not, hundreds of questions more would be in vain."""
UNREACHABLE = (
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "NameResolutionError",
    "ProxyError",
    "ServiceError",
    "SSLError",
)
"""What pip-audit's last words name when the service does not answer, or somebody else does in its place."""


def verdict(report: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return the exit status for pip-audit's JSON report, and what to print."""
    dependencies: Sequence[Mapping[str, Any]] = report["dependencies"]
    asked = [each for each in dependencies if "skip_reason" not in each]
    if not asked:
        return 0, ["not audited: there is no advisory service that knows any of the packages"]
    found = [
        f"{each['name']} {each['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version'}"
        for each in asked
        for flaw in each["vulns"]
    ]
    unknown = len(dependencies) - len(asked)
    return bool(found), [*found, f"{len(asked)} packages audited, {unknown} unknown, {len(found)} vulnerabilities"]


def outcome(status: int, out: str, err: str) -> tuple[int, list[str]]:
    """Return the exit status and what to print, of what pip-audit did."""
    try:
        report = json.loads(out)
    except ValueError:
        last = (err.strip().splitlines() or ["it said nothing"])[-1][:300]
        if any(name in err for name in UNREACHABLE):
            return 0, [f"not audited: the advisory service cannot be reached: {last}"]
        return 1, [f"the audit failed with status {status}: {last}"]
    return verdict(report)


def audit(path: str) -> tuple[int, list[str]]:
    """Return the exit status for one file of pinned versions, and what to print."""
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [*command, "--format", "json", "--requirement", path],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 0, [f"not audited: the advisory service did not answer within {TIMEOUT_S:g} s"]
    return outcome(done.returncode, done.stdout, done.stderr)


def main(constraints: Sequence[str]) -> int:
    """Audit files of pinned versions, and print the outcome of each."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as probe:
        probe.write(PROBE)
        probe.flush()
        _, lines = audit(probe.name)
    if lines[0].startswith("not audited"):
        sys.stdout.write(f"{lines[0]}\n")
        return 0
    worst = 0
    for path in constraints:
        status, lines = audit(path)
        sys.stdout.writelines(f"{path}: {line}\n" for line in lines)
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
