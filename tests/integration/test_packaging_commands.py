"""The command line as users meet it: help for everything, one line for what is missing, no tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

COMMANDS = ("serve", "check-config", "key", "demo", "loadtest", "train", "bench")
HIDE = """
import importlib.abc, runpy, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = ["batchd", *sys.argv[1:]]
runpy.run_module("batchd_server.cli.main", run_name="__main__")
"""


def batchd(*arguments: str, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    start = ["-c", HIDE.format(hidden=hidden)] if hidden else ["-m", "batchd_server.cli.main"]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"},
    )


def test_the_version_is_the_package_s() -> None:
    assert batchd("--version").stdout.strip() == f"batchd {version('batchd')}"
    assert f"batchd {version('batchd')}" in batchd("version").stdout


def test_help_lists_every_command() -> None:
    done = batchd("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_full_help(command: str, flag: str) -> None:
    done = batchd(command, flag)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout
    assert f" {command} [OPTIONS]" in done.stdout
    assert "--help" in done.stdout
    assert "completion" not in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_a_usage_error_of_the_command_itself(command: str) -> None:
    done = batchd(command, "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    done = batchd("sevre")
    assert done.returncode == 2
    assert "sevre" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("version",), ("loadtest", "--help"), ("train", "submit", "--help")]
)
def test_what_needs_no_daemon_runs_without_its_packages(arguments: tuple[str, ...]) -> None:
    done = batchd(
        *arguments, hidden=("torch", "fastapi", "starlette", "pydantic_settings", "zmq", "sklearn", "matplotlib")
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "hidden", "extra"),
    [
        ("serve", "pydantic_settings", "batchd[server]"),
        ("check-config", "pydantic_settings", "batchd[server]"),
        ("demo", "sklearn", "batchd[server,demo,plot]"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(command: str, hidden: str, extra: str) -> None:
    done = batchd(command, hidden=(hidden,))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert f"batchd {command} needs: pip install '{extra}'" in line
    assert hidden in line


def test_a_configuration_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = batchd("serve", "--config", str(tmp_path / "absent.toml"))
    assert done.returncode == 2
    assert "absent.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_no_traceback() -> None:
    done = batchd("loadtest", "--url", "http://127.0.0.1:9", "--model", "digit-lines", "--duration", "1", "--rate", "5")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
