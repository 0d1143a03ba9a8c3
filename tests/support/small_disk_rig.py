"""Small disks that are really full, read-only or broken. Making one takes root; else a test is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

MIB = 1 << 20
BUSY_S = 10.0


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system of its own."""

    path: Path

    @property
    def free(self) -> int:
        return shutil.disk_usage(self.path).free

    @property
    def ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Take all but `leave` bytes of what is free."""
        with self.ballast.open("ab", buffering=0) as file:
            for size in (MIB, 4096):
                with suppress(OSError):  # this is what is wanted: no space left
                    while self.free >= leave + size:
                        file.write(bytes(size))
            with suppress(OSError):
                while leave == 0:
                    file.write(bytes(4096))

    def empty(self) -> None:
        """Give it back."""
        self.ballast.unlink()


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[SmallDisk]:
    """A disk in memory."""
    path.mkdir(exist_ok=True)
    with _mounted(path, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        yield SmallDisk(path)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Mount a directory over itself so that nothing in it can be written, by whomever."""
    with _mounted(path, "--bind", str(path)):
        _mount("-o", "remount,bind,ro", str(path))
        yield


@contextmanager
def breaking_disk(image: Path, path: Path) -> Iterator[Callable[[], None]]:
    """An ext4 disk in a file. Calling what this yields makes the kernel find an error on it and stop all writing."""
    path.mkdir(exist_ok=True)
    if not image.exists():
        image.write_bytes(b"")
        os.truncate(image, 16 * MIB)
        _run("mkfs.ext4", "-q", str(image))
    with _mounted(path, "-o", "loop,errors=remount-ro", str(image)):
        device = subprocess.run(["findmnt", "-no", "SOURCE", str(path)], capture_output=True, text=True, check=True)
        trigger = Path("/sys/fs/ext4") / Path(device.stdout.strip()).name / "trigger_fs_error"
        if not trigger.exists():
            pytest.skip("the kernel offers no way to break this disk")
        yield lambda: trigger.write_text("broken by a test") and None


@contextmanager
def _mounted(path: Path, *arguments: str) -> Iterator[None]:
    _mount(*arguments, str(path))
    try:
        yield
    finally:
        _unmount(path)


def _mount(*arguments: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    _run("mount", *arguments)


def _run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{command[0]} is not allowed or not possible here: {done.stderr.strip()}")


def _unmount(path: Path) -> None:
    """Unmount as soon as nothing uses it; what goes on using it does not get to keep the name."""
    give_up = time.monotonic() + BUSY_S
    while subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode != 0:
        if time.monotonic() > give_up:
            subprocess.run(["umount", "--lazy", str(path)], check=True)
            raise AssertionError(f"{path} was still in use")
        time.sleep(0.1)
