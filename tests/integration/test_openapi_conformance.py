"""A real daemon does what its own OpenAPI description says: schemathesis, all checks, a fixed seed.

`make conformance` does more of it. `tests/support/schemathesis.toml` says where a check knows too little, and why.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from batchd_server.cli.child_daemon import ChildDaemon, child_daemon
from batchd_server.config.keys import key_digest, new_key

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parents[1] / "support"
EXAMPLES = os.environ.get("BATCHD_CONFORMANCE_EXAMPLES", "2")
SEED = os.environ.get("BATCHD_CONFORMANCE_SEED", "1")
KEY = new_key()
CONFIG = f"""
[[security.keys]]
name = "everything"
sha256 = "{key_digest(KEY.encode())}"
scopes = ["admin"]
[training]
data_root = "."
[models.scale]
entrypoint = "front_rig:Scale"
[models.embedder]
entrypoint = "front_rig:Embedder"
[models.unloadable]
entrypoint = "front_rig:Scale"
"""


@pytest.fixture(scope="module")
def running() -> Iterator[ChildDaemon]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "batchd.toml"
        config.write_text(CONFIG)
        environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SUPPORT)}
        log = Path(folder) / "daemon.log"
        with child_daemon(log, arguments=["--config", str(config)], environment=environment) as daemon:
            yield daemon


@pytest.mark.timeout(3600)
def test_the_daemon_does_what_its_description_says(running: ChildDaemon, tmp_path: Path) -> None:
    command = [
        *(str(Path(sys.executable).with_name("st")), "--config-file", str(SUPPORT / "schemathesis.toml")),
        *("run", f"{running.url}/openapi.json", "--seed", SEED, "--max-examples", EXAMPLES),
        *("--phases", "examples,coverage,fuzzing,stateful", "--checks", "all", "--request-timeout", "60"),
        *("--continue-on-failure", "--no-color", "--warnings", "off", "--header", f"Authorization: Bearer {KEY}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    operations = sum(
        len(methods) for methods in httpx.get(f"{running.url}/openapi.json", timeout=60).json()["paths"].values()
    )
    assert f"Tested: {operations}\n" in done.stdout  # none was skipped or could not be read
    log = running.log.read_text()
    assert "failed unexpectedly" not in log
    assert "Traceback" not in log


def test_405_names_all_methods_of_a_path(running: ChildDaemon) -> None:
    for path, methods in httpx.get(f"{running.url}/openapi.json", timeout=60).json()["paths"].items():
        known = {method.upper() for method in methods}
        known |= {"HEAD"} if "GET" in known else set()
        # "/v2/models/stats" is also the name of a model, as far as the pattern of a path goes
        place = running.url + path.replace("{", "").replace("}", "")
        answer = httpx.request("PATCH", place, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == known, path
