"""The machine that this runs on: what it is, which cores and which disk there are."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.measuring import Unavailable

IN_MEMORY = ("tmpfs", "ramfs")

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
"""The cores that this process may use, before it keeps itself to one of them."""


def description() -> dict[str, str]:
    """Return what a figure depends on, but for what a group says itself."""
    python = f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "Python": python,
        "CPU": f"{_cpu_model()}, {len(CORES)} of {os.cpu_count()} cores, load {load} at the start",
        "System": f"{platform.system()} {platform.release()}",
    }


def versions(*distributions: str) -> str:
    """Return the versions of installed distributions, on one line."""
    return ", ".join(f"{name} {_version(name)}" for name in distributions)


@contextmanager
def pinned(core: int) -> Generator[None]:
    """Keep this process, and those that it starts meanwhile, on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def folder_on_disk() -> Generator[Path]:
    """Make a folder for a database, on a disk and not in memory, and delete it afterwards; TMPDIR chooses the disk."""
    places = [tempfile.gettempdir(), "/var/tmp", str(Path.home())]
    place = next((place for place in places if os.access(place, os.W_OK) and not in_memory(place)), None)
    if place is None:
        raise Unavailable("every temporary folder lies in memory; name one on a disk in TMPDIR")
    with tempfile.TemporaryDirectory(prefix="postbus-bench-", dir=place) as folder:
        yield Path(folder)


def in_memory(path: str) -> bool:
    """Say whether a folder lies on a file system that is kept in memory."""
    return file_system(path) in IN_MEMORY


def file_system(path: str | Path) -> str:
    """Return the type of the file system that a path lies on, for example ``ext4``."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    real = Path(path).resolve()
    types = {Path(point): kind for _, point, kind, *_ in map(str.split, mounts)}
    holding = [point for point in types if real.is_relative_to(point)]
    return types[max(holding, key=lambda point: len(point.parts))] if holding else "unknown"


def core_of_children(leave_out: int | None = None) -> float:
    """Return the seconds of a core that the living children of this process have taken, and theirs; but for one."""
    if not Path("/proc/self/schedstat").exists():
        raise Unavailable("this system does not tell what other processes have taken")
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It has ended meanwhile.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [child for child in children.get(os.getpid(), []) if child != leave_out]
    for process in found:
        found += children.get(process, [])
    nanoseconds = 0
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with suppress(OSError):
                nanoseconds += int(task.read_text().split()[0])
    return nanoseconds / 1e9


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "missing"
