"""What users install is whole: the wheel holds everything, and installs with and without the daemon's needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from batchd_server.cli.child_daemon import child_daemon

ROOT = Path(__file__).parents[2]
PACKAGES = {"batching": "batchd", "server": "batchd_server", "clients": "batchd_client"}
CONSTRAINTS = str(ROOT / "constraints.txt")


def run(*command: str | Path, cwd: Path, code: int = 0, timeout: float = 280) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a `build/` behind, from which a later wheel would take deleted modules."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=tree)
    (built,) = (tree / "dist").glob("*.whl")
    return built


def venv(folder: Path) -> Path:
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin"


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    expected = {
        str(path.relative_to(ROOT / folder))
        for folder, package in PACKAGES.items()
        for path in (ROOT / folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        scripts = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "batchd = batchd_server.cli.main:main" in scripts


@pytest.mark.slow
def test_a_plain_install_gives_library_client_and_load_tester_without_torch(wheel: Path, tmp_path: Path) -> None:
    bin_folder = venv(tmp_path / "plain")
    run(bin_folder / "python", "-m", "pip", "install", "-q", "-c", CONSTRAINTS, wheel, cwd=tmp_path)
    batchd = bin_folder / "batchd"
    assert "torch is not installed" in run(batchd, "version", cwd=tmp_path)
    assert "--rate" in run(batchd, "loadtest", "--help", cwd=tmp_path)
    assert "loadtest" in run(batchd, "--help", cwd=tmp_path)
    probe = (
        "import batchd, batchd_client, importlib.util, sys\n"
        "from batchd.controller import Controller\n"
        "from batchd_client import AsyncClient, Client\n"
        "print([name for name in ('torch', 'fastapi', 'zmq') if importlib.util.find_spec(name)])"
    )
    assert run(bin_folder / "python", "-c", probe, cwd=tmp_path).strip() == "[]"
    for command in ("serve", "check-config"):
        refusal = run(batchd, command, cwd=tmp_path, code=2).strip()
        assert refusal.startswith(f"batchd {command} needs: pip install 'batchd[server]'")
        assert "\n" not in refusal


@pytest.mark.slow
def test_the_server_extra_gives_a_daemon_that_answers(wheel: Path, tmp_path: Path) -> None:
    bin_folder = venv(tmp_path / "server")
    run(bin_folder / "python", "-m", "pip", "install", "-q", "-c", CONSTRAINTS, f"{wheel}[server]", cwd=tmp_path)
    versions = run(bin_folder / "batchd", "version", cwd=tmp_path)
    pinned = next(line for line in Path(CONSTRAINTS).read_text().splitlines() if line.startswith("torch=="))
    assert f"torch {pinned.removeprefix('torch==')}" in versions
    ask = (
        "import sys, numpy as np\n"
        "from batchd_client import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    print(client.infer('digit-lines', {'image': np.zeros((1, 8, 24), np.float32)}, timeout_s=60))\n"
    )
    with child_daemon(tmp_path / "daemon.log", python=str(bin_folder / "python")) as daemon:
        answer = run(bin_folder / "python", "-c", ask, daemon.url, cwd=tmp_path)
    assert "outputs" in answer or "array" in answer
    assert daemon.process.returncode == 0, daemon.tail()
