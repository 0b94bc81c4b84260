"""Newer Debians than this machine's, in folders: for brokers and Pythons that it does not have.

``python -m tests.brokers.newest forky python3,python3-venv -- python3 --version`` runs a command in one. It takes
root, on a Debian, and a few minutes the first time; the folder is kept for the next.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.brokers.programs import SHARED, locked, provide

FOLDER = Path(os.environ.get("POSTBUS_TEST_DEBIANS") or Path(tempfile.gettempdir(), "postbus-debians"))
"""Where they are; to be deleted at any time when nothing runs in them."""

ROOT = Path(__file__).parents[2]

# How this machine reaches the network, and whom it trusts there.
NETWORK = (
    *("etc/resolv.conf", "etc/hosts", "etc/pip.conf", "etc/ssl/certs", "usr/local/share/ca-certificates"),
    "etc/apt/apt.conf.d",
)

# It mounts in a namespace of its own, so the mounts are gone with the last process in it, whatever ends that; and
# nobody who deletes the folder meanwhile deletes through them. A path that is mounted is the same inside and outside.
ENTER = """
set -e
root=$1; folder=$2; shared=$3; shift 3
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$folder" "$root$folder"
mount --bind "$shared" "$root$shared"
exec chroot "$root" env --chdir="$folder" --unset=VIRTUAL_ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$@"
"""


class Debian:
    """A Debian of some suite, with some packages, in a folder of its own."""

    def __init__(self, suite: str, *packages: str) -> None:
        self.root = FOLDER / suite
        self._suite = suite
        self._packages = packages

    def command(self, *arguments: str, folder: Path = ROOT, environment: Mapping[str, str] | None = None) -> list[str]:
        """Return what runs a program in it: in a folder, which is seen inside as outside, by default this repository.

        Everything else that the program writes is kept with the Debian. Ports are those of this machine, and so is
        what its test runs agree on.
        """
        SHARED.mkdir(mode=0o700, exist_ok=True)
        for seen in folder, SHARED:
            (self.root / seen.relative_to("/")).mkdir(parents=True, exist_ok=True)
        variables = [f"{name}={value}" for name, value in (environment or {}).items()]
        enter = ["sh", "-c", ENTER, "enter", str(self.root), str(folder), str(SHARED), *variables, *arguments]
        return ["unshare", "--mount", "--propagation", "private", "--", *enter]

    def make(self) -> None:
        """Make it, unless it is there, with all its packages."""
        with locked(f"debian-{self._suite}"):
            made = self.root / "made"
            have = made.read_text().split() if made.exists() else None
            if have is None:
                self._bootstrap()
            wanted = [package for package in self._packages if package not in (have or ())]
            if wanted:
                self._apt_get("update")
                self._apt_get("install", "--yes", "--no-install-recommends", *wanted)
            made.write_text("\n".join([*(have or ()), *wanted]))

    def _bootstrap(self) -> None:
        _check_machine()
        shutil.rmtree(self.root, ignore_errors=True)  # What an earlier attempt has left.
        self.root.mkdir(parents=True)
        # The script of unstable serves suites that are newer than this machine's debootstrap, too.
        script = "/usr/share/debootstrap/scripts/sid"
        _run(["debootstrap", "--variant=minbase", self._suite, str(self.root), _mirror(), script])
        rule = self.root / "usr/sbin/policy-rc.d"  # No package is to start what it installs.
        rule.write_text("#!/bin/sh\nexit 101\n")
        rule.chmod(0o755)
        for name in NETWORK:
            here, there = Path("/", name), self.root / name
            if here.is_dir():
                shutil.copytree(here, there, dirs_exist_ok=True)
            elif here.exists():
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(here, there)

    def _apt_get(self, *arguments: str) -> None:
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        _run(self.command("apt-get", "-qq", *arguments, environment=environment))


def _check_machine() -> None:
    if os.getuid() != 0 or not Path("/etc/debian_version").exists():
        sys.exit("This takes root on a Debian, for debootstrap and chroot. Run it in a container of one, for example.")
    problem = provide(lambda: shutil.which("debootstrap") is not None, "debootstrap")
    if shutil.which("debootstrap") is None:
        sys.exit(f"debootstrap cannot be installed: {problem}.")


def _mirror() -> str:
    """Return where this machine has its own packages from."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("debian*"))]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    found = next((word for word in words if word.startswith("http")), None)
    if found is None:
        sys.exit("The package sources of this machine name no mirror that debootstrap could use.")
    return found


def _run(command: Sequence[str]) -> None:
    """Run a command silently; show what it said only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\n{command[0]} failed with code {done.returncode}.")


def main(suite: str, packages: str, *command: str) -> None:
    """Run the program."""
    debian = Debian(suite, *packages.split(","))
    debian.make()
    sys.exit(subprocess.run(debian.command(*command[1:])).returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
