"""Paths below the data root, and what lies there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from batchd_server.training.datasets.problems import DatasetError, DatasetNotFoundError

_CHUNK = 1 << 20


def below(root: Path, path: str) -> Path:
    """Return where `path` leads, which must be a file or folder below `root`, symbolic links followed.

    Of what leads out of the root nothing more is told, not even whether it is there.

    Raises:
        DatasetNotFoundError: nothing is there.
        DatasetError: it leads out of the root, or to what is neither a file nor a folder.
    """
    try:
        top = root.resolve(strict=True)
        place = Path(os.path.realpath(top / path))
        inside = place != top and place.is_relative_to(top)
        if inside:
            place.resolve(strict=True)
    except FileNotFoundError:
        raise DatasetNotFoundError(f"there is nothing at {path[:200]!r} below the data root", "path") from None
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a NUL, a name too long
        raise DatasetError(f"{path[:200]!r} is no path", "path") from error
    if not inside:
        raise DatasetError(f"{path[:200]!r} leads out of the data root", "path")
    if not place.is_file() and not place.is_dir():
        raise DatasetError(f"{path[:200]!r} is neither a file nor a folder", "path")
    return place


def files_below(folder: Path, at_most: int) -> list[Path]:
    """Return the files of a folder by path, hidden ones left out.

    Raises:
        DatasetError: there are more than `at_most`, or one is a link out of the folder or no file.
    """
    found: list[Path] = []
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            continue
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if not path.is_file() or not path.resolve().is_relative_to(folder):
            raise DatasetError(f"{str(path.relative_to(folder))!r} is no file of this folder")
        found.append(path)
        if len(found) > at_most:
            raise DatasetError(f"the folder holds more than {at_most} files")
    return sorted(found)


def digest(place: Path) -> tuple[int, str]:
    """Return bytes and SHA-256 of a file; of a folder, over the names and contents of its files in order."""
    total = hashlib.sha256()
    if place.is_file():
        return _add(place, total), total.hexdigest()
    size = 0
    for path in files_below(place, at_most=10**9):
        own = hashlib.sha256()
        size += _add(path, own)
        total.update(f"{path.relative_to(place)}\0{own.hexdigest()}\n".encode())
    return size, total.hexdigest()


def _add(path: Path, total: hashlib._Hash) -> int:
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
            size += len(chunk)
    return size
