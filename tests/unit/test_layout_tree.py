"""The tree keeps its shape: rooms, sizes, names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = {"batching": "batchd", "server": "batchd_server", "clients": "batchd_client"}
TOP_LEVEL = {*SOURCE_ROOTS, ".ci", "benchmarks", "deploy", "docs", "examples", "studies", "tests"}
MADE_BY_TOOLS = re.compile(r"^(\.(?!ci$).*|__pycache__|build|dist|var|htmlcov|demo-report|.*\.egg-info)$")
DRAWERS = {"utils", "util", "helpers", "common", "misc", "base", "manager", "tools"}


def python_files(*folders: str) -> list[Path]:
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts
    )


SOURCES = python_files(*SOURCE_ROOTS)
EVERYTHING = python_files(*(TOP_LEVEL - {".ci"}))


def test_the_top_level_holds_only_the_rooms_it_is_known_for() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not MADE_BY_TOOLS.match(path.name)}
    assert folders <= TOP_LEVEL
    assert set(SOURCE_ROOTS) <= folders


@pytest.mark.parametrize(("folder", "package"), SOURCE_ROOTS.items())
def test_a_source_root_holds_one_typed_package(folder: str, package: str) -> None:
    found = {path.name for path in (ROOT / folder).iterdir() if not MADE_BY_TOOLS.match(path.name)}
    assert found == {package}
    assert (ROOT / folder / package / "py.typed").exists()


def test_every_folder_of_a_package_is_a_package() -> None:
    """Folders without `__init__.py` would be left out of the wheel."""
    bare = {path.parent for path in SOURCES if not (path.parent / "__init__.py").exists()}
    assert bare == set()


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in EVERYTHING}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


def test_no_module_hides_one_of_the_standard_library() -> None:
    assert {path.relative_to(ROOT) for path in SOURCES if path.stem in sys.stdlib_module_names} == set()


def test_no_module_is_a_drawer() -> None:
    assert {path.relative_to(ROOT) for path in EVERYTHING if path.stem in DRAWERS} == set()


def test_modules_say_why_they_exist() -> None:
    silent = {
        path.relative_to(ROOT)
        for path in SOURCES
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    }
    assert silent == set()


def test_sources_are_ascii() -> None:
    assert {path.relative_to(ROOT) for path in SOURCES if not path.read_bytes().isascii()} == set()


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in python_files("tests") if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_imports_run_one_way() -> None:
    """The contracts stand in pyproject.toml; a subprocess, because import-linter changes the import path."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_every_pinned_version_is_exact_and_names_no_host() -> None:
    for name in ("constraints.txt", "constraints-kserve.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
        loose = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line)]
        assert loose == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    pinned = {_normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    names = {_normal(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in wanted} - {"batchd"}
    assert names - pinned == set()


def test_the_library_says_the_version_that_is_packaged() -> None:
    import batchd

    assert batchd.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
