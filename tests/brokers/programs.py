"""Where a broker's program is, how it is installed, and what happens to a test without it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

SHARED = Path(tempfile.gettempdir(), f"postbus-brokers-{os.getuid()}")
"""What the test runs on this machine agree on: the files they lock."""


def find(program: str, *, package: str, otherwise: str = "", folders: tuple[str, ...] = ()) -> str:
    """Return the path of a program, of Debian's package if it must be installed first.

    The calling test is skipped if there is no way to it, and told what to do instead, or fails where brokers
    are required.
    """
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin"])
    failure = provide(lambda: shutil.which(program, path=path) is not None, package)
    found = shutil.which(program, path=path)
    if found is None and failure:
        missing(f"apt-get did not install {package}: {failure}")
    if found is None:
        missing(f"{program} is not installed. Install it, on Debian with: apt-get install {package}{otherwise}")
    return found


def provide(is_there: Callable[[], bool], *packages: str) -> str:
    """Install Debian's packages unless what they bring is there already, or cannot be installed by us.

    Returns what apt-get said last, and nothing if it was not run.
    """
    if not _may_install():
        return ""
    # What another process is installing looks as if it were there before it is complete.
    with locked("install"):
        return "" if is_there() else _install(packages)


def missing(reason: str) -> NoReturn:
    """Skip the calling test for want of a broker; fail it where brokers are required."""
    if os.environ.get("POSTBUS_REQUIRE_BROKERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def locked(name: str) -> Generator[None]:
    """Let one process of this machine at a time do something."""
    SHARED.mkdir(mode=0o700, exist_ok=True)
    with (SHARED / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _may_install() -> bool:
    return os.getuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None


@cache
def _install(packages: tuple[str, ...]) -> str:
    _update()
    with _no_default_instance():
        return _apt_get("install", "--yes", "--no-install-recommends", *packages)


@contextmanager
def _no_default_instance() -> Generator[None]:
    """Keep Debian's packages from starting what they install, unless the machine has a rule of its own for that."""
    rule = Path("/usr/sbin/policy-rc.d")
    if rule.exists():
        yield
        return
    rule.write_text("#!/bin/sh\nexit 101\n")
    rule.chmod(0o755)
    try:
        yield
    finally:
        rule.unlink()


@cache
def _update() -> None:
    _apt_get("update")


def _apt_get(*arguments: str) -> str:
    """Run apt-get; return the last line it said, which tells what went wrong."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return (done.stdout.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
