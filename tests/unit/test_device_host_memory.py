"""Memory of cgroups and machines, read from made-up /proc and /sys trees."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from batchd_server.device.memory.host import HostMemory, HostProbe

GIB = 2**30
MEMINFO = f"MemTotal: {8 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {6 * GIB // 1024} kB\nHugePages_Total: 0\n"


def tree(root: Path, files: Mapping[str, object]) -> HostProbe:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(content))
    return HostProbe(root)


def test_without_a_cgroup_the_machine_is_the_limit(tmp_path: Path) -> None:
    memory = tree(tmp_path, {"proc/meminfo": MEMINFO}).read()
    assert memory == HostMemory(limit=8 * GIB, used=2 * GIB)
    assert memory.free == 6 * GIB


def test_version_2_limits_less_the_reclaimable_cache(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/app.slice/batchd"
    probe = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/app.slice/batchd\n",
            f"{group}/memory.max": 4 * GIB,
            f"{group}/memory.current": 3 * GIB,
            f"{group}/memory.stat": f"anon 5\ninactive_file {GIB}\n",
        },
    )
    assert probe.read() == HostMemory(limit=4 * GIB, used=2 * GIB)


def test_a_tighter_limit_further_up_holds(tmp_path: Path) -> None:
    probe = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/app.slice/batchd\n",
            "sys/fs/cgroup/app.slice/memory.max": 2 * GIB,
            "sys/fs/cgroup/app.slice/memory.current": GIB,
            "sys/fs/cgroup/app.slice/batchd/memory.max": "max",
            "sys/fs/cgroup/app.slice/batchd/memory.current": 10,
        },
    )
    assert probe.read() == HostMemory(limit=2 * GIB, used=GIB)


def test_version_1_with_a_limit(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/abc"
    probe = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "7:cpu,cpuacct:/\n5:memory:/docker/abc\n0::/\n",
            f"{group}/memory.limit_in_bytes": GIB,
            f"{group}/memory.usage_in_bytes": GIB // 2,
            f"{group}/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 4}\n",
        },
    )
    assert probe.read() == HostMemory(limit=GIB, used=GIB // 4)


def test_version_1_without_a_limit_is_the_machine(tmp_path: Path) -> None:
    probe = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "5:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": GIB,
        },
    )
    assert probe.read().limit == 8 * GIB


def test_a_path_of_the_host_seen_from_a_container_falls_back_to_the_mount(tmp_path: Path) -> None:
    probe = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../system.slice/host-only\n",
            "sys/fs/cgroup/memory.max": GIB,
            "sys/fs/cgroup/memory.current": 100,
        },
    )
    assert probe.read() == HostMemory(limit=GIB, used=100)


@pytest.mark.parametrize("content", ["", "nonsense", "-", "1.5"])
def test_malformed_files_are_missing_readings(tmp_path: Path, content: str) -> None:
    files = ("proc/meminfo", "proc/self/statm", "sys/fs/cgroup/memory.max", "sys/fs/cgroup/cpu.max")
    probe = tree(tmp_path, {**dict.fromkeys(files, content), "proc/self/cgroup": "0::/\n"})
    assert probe.read() == HostMemory(limit=None, used=None)
    assert probe.read().free is None
    assert probe.resident() is None
    assert probe.cpus() is None


def test_the_resident_set_counts_pages(tmp_path: Path) -> None:
    probe = tree(tmp_path, {"proc/self/statm": "1000 25 7 1 0 9 0\n"})
    assert probe.resident() == 25 * os.sysconf("SC_PAGE_SIZE")


def test_processor_quotas(tmp_path: Path) -> None:
    second = {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n"}
    first = {
        "proc/self/cgroup": "3:cpu,cpuacct:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": 150000,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
    }
    unlimited = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}
    assert tree(tmp_path / "v2", second).cpus() == 2.5
    assert tree(tmp_path / "v1", first).cpus() == 1.5
    assert tree(tmp_path / "none", unlimited).cpus() is None


def test_this_machine_tells_something() -> None:
    memory = HostProbe().read()
    assert memory.limit is not None
    assert memory.used is not None
    assert 0 < memory.used < memory.limit
    assert 0 < (HostProbe().resident() or 0) < memory.limit
