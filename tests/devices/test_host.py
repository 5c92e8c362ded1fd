"""Memory and processors of machines and containers, read from example file trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from autobatch.devices.host import Memory, cpu_name, cpu_quota, default_limit, read_memory

GIB = 1 << 30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"


def tree(root: Path, cgroup: str = "", **files: str) -> Path:
    """A file tree; double underscores in names stand for slashes."""
    named = {"proc__meminfo": MEMINFO, "proc__self__cgroup": cgroup, **files}
    for name, text in named.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_without_limits(tmp_path: Path) -> None:
    memory = read_memory(tree(tmp_path))
    assert memory == Memory(total_bytes=16 * GIB, available_bytes=8 * GIB, cgroup_bytes=None)


def test_version_2_counts_what_the_kernel_can_drop_as_free(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/job\n")
    (root / "sys/fs/cgroup/job").mkdir(parents=True)
    (root / "sys/fs/cgroup/job/memory.max").write_text(f"{4 * GIB}\n")
    (root / "sys/fs/cgroup/job/memory.current").write_text(f"{3 * GIB}\n")
    (root / "sys/fs/cgroup/job/memory.stat").write_text(f"anon 1\ninactive_file {GIB}\n")
    memory = read_memory(root)
    assert (memory.total_bytes, memory.available_bytes, memory.cgroup_bytes) == (4 * GIB, 2 * GIB, 2 * GIB)


def test_an_ancestor_may_be_tighter(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/pod/job\n")
    for name, limit in (("pod", f"{2 * GIB}"), ("pod/job", "max")):
        folder = root / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(GIB))
    assert read_memory(root).available_bytes == GIB


def test_in_a_namespace_the_root_is_read(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/not/below/the/mount\n")
    folder = root / "sys/fs/cgroup"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(str(GIB))
    (folder / "memory.current").write_text("0")
    assert read_memory(root).available_bytes == GIB


@pytest.mark.parametrize(("limit", "available"), [(3 * GIB, 2 * GIB), (2**63 - 4096, 8 * GIB)])
def test_version_1(tmp_path: Path, limit: int, available: int) -> None:
    root = tree(tmp_path, "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n")
    folder = root / "sys/fs/cgroup/memory/docker/abc"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(str(limit))
    (folder / "memory.usage_in_bytes").write_text(str(2 * GIB))
    (folder / "memory.stat").write_text(f"total_inactive_file {GIB}\n")
    assert read_memory(root).available_bytes == available


def test_processors_of_a_container(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/job\n")
    (root / "sys/fs/cgroup/job").mkdir(parents=True)
    assert cpu_quota(root) is None
    (root / "sys/fs/cgroup/job/cpu.max").write_text("150000 100000\n")
    assert cpu_quota(root) == 1.5


def test_the_name_of_the_processor(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__cpuinfo="processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert cpu_name(root) == "Some CPU @ 2 GHz"


def test_the_default_leaves_the_machine_usable() -> None:
    assert default_limit(Memory(16 * GIB, 10 * GIB, None)) == 8 * GIB
    assert default_limit(Memory(16 * GIB, 2 * GIB, None)) == GIB
    assert default_limit(Memory(16 * GIB, GIB // 2, None)) == 0
