"""The documents hang together: links lead somewhere, every page is reachable, every dependency has its reason."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def local_links(page: Path) -> list[str]:
    return [link for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in local_links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_reachable_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    frontier = list(reached)
    while frontier:
        page = frontier.pop()
        for link in local_links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                frontier.append(target)
    assert set(PAGES) - reached == set()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted} - {"batchd"}
    text = (ROOT / "docs" / "dependencies.md").read_text()
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_the_changelog_knows_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert version in text


def test_the_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {verb for page in PAGES for verb in re.findall(r"(?:`|^|\n)make ([a-z-]+)", page.read_text())}
    assert named <= targets
    assert {"demo", "test"} <= named


def test_the_diagram_of_an_item_s_life_is_the_table_s() -> None:
    from batchd.lifecycle import diagram

    assert f"```mermaid\n{diagram()}\n```" in (ROOT / "docs" / "architecture.md").read_text()


def test_the_modules_that_the_architecture_names_exist() -> None:
    text = FENCE.sub("", (ROOT / "docs" / "architecture.md").read_text())
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.py)`", text))
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/batchd*/**/*.py")}
    assert named
    assert {name for name in named if not any(source.endswith(f"/{name}") for source in sources)} == set()


def test_the_rooms_that_the_architecture_lists_are_all_there_are() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = set(re.findall(r"^\| `((?:batching|server|clients)/[a-z_/]+)/`", text, re.MULTILINE))
    packages = {
        str(path.parent.relative_to(ROOT))
        for root in ("batching", "server", "clients")
        for path in (ROOT / root).glob("batchd*/*/__init__.py")
    }
    tops = {"batching/batchd", "clients/batchd_client"}
    assert listed == packages | tops
