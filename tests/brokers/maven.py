"""Brokers that run on Java: their jars, fetched from Maven Central once, into a folder that outlives the tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.brokers.programs import find, locked, missing

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "postbus-tests", "jars")
"""What is fetched stays here, for every working copy of this project."""

RUNTIME = "default-jre-headless"
"""Debian's package of the Java that runs them."""

_FETCH = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_PROJECT = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>postbus.tests</groupId><artifactId>jars</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""
_DEPENDENCY = "    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


def java() -> str:
    """Return the path of Java, installed if need be; without it, the calling test is skipped, or fails."""
    return find("java", package=RUNTIME)


def jars(name: str, *coordinates: str) -> str:
    """Return the class path of what these coordinates, ``group:artifact:version``, need to run.

    It is fetched if it was not before; where it cannot be, the calling test is skipped, or fails.
    """
    digest = hashlib.sha256("\n".join(coordinates).encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    if not folder.exists():
        with locked(f"jars-{name}"):
            if not folder.exists():
                _fetch(folder, coordinates)
    return f"{folder}/*"


def archive(java: str, class_path: str, make: Callable[[Path], None]) -> Path:
    """Return the file in which Java finds the classes of these jars as it had loaded them, which halves a start.

    ``make`` writes it once for each Java, to a path that it is given: by `-XX:ArchiveClassesAtExit`. That takes its
    time, for which no test waits: until it is done there is no such file.
    """
    version = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    folder = Path(class_path).parent
    path = folder.with_name(f"{folder.name}-{hashlib.sha256(version.encode()).hexdigest()[:12]}.jsa")
    if not path.exists():
        threading.Thread(target=_make_archive, args=(path, make), daemon=True).start()
    return path


def _make_archive(path: Path, make: Callable[[Path], None]) -> None:
    # Without it everything is as well, only slower.
    with suppress(Exception), locked(f"classes-{path.name}"):
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            unfinished.unlink(missing_ok=True)
            make(unfinished)
            unfinished.rename(path)


def _fetch(folder: Path, coordinates: tuple[str, ...]) -> None:
    program = find("mvn", package="maven")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Into a folder of its own, so that one that was left halfway is never taken for the whole.
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        lines = "\n".join(_DEPENDENCY.format(*coordinate.split(":")) for coordinate in coordinates)
        (work / "pom.xml").write_text(_PROJECT.format(dependencies=lines))
        command = [program, "--batch-mode", "--quiet", _FETCH, "-DincludeScope=runtime", "-DoutputDirectory=libs"]
        done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            missing(f"Maven did not fetch {', '.join(coordinates)}: {done.stdout.strip()[-500:]}")
        (work / "libs").rename(folder)
    finally:
        shutil.rmtree(work)
