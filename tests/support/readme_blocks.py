"""The fenced blocks of a Markdown page, by the section they stand in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w.-]+\.\w+)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block; `file` is the name in its first line, where it is a file rather than a command."""

    section: str
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that this block is."""
        found = _FILE.match(self.text)
        return found[1] if found else None

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block; one may run over several lines inside quotes."""
        assert self.language == "sh"
        found: list[str] = []
        for line in self.text.splitlines():
            if found and found[-1].count("'") % 2:
                found[-1] += f"\n{line}"
            else:
                found.append(line)
        return found


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks with a language, in order."""
    text = page.read_text()
    starts = [(found.start(), found[1]) for found in _SECTION.finditer(text)]
    return [
        Block(
            section=next((name for start, name in reversed(starts) if start < found.start()), ""),
            language=found[1],
            text=found[2],
        )
        for found in _BLOCK.finditer(text)
    ]
