"""Somebody who reads a page, does what it says, word by word, and sees whether what comes of it is what it shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.brokers.server import wait_until

BEFORE = ("mkdir ", "python -m venv", "python3 -m venv", ". .venv/", "pip install", "(cd ../postbus", "export PIP_")
BEFORE += ("docker run",)
"""How lines begin that install what is installed here, or start a broker that runs."""

LASTING = ("postbus consume", "uvicorn ")
"""How commands begin that go on in a terminal of their own, unless they say when they end."""

ENDING = ("--until-empty", "--idle-limit", "--limit")

READY = ("Ctrl+C or SIGTERM stops it", "Uvicorn running on")
"""What such a program says when it has begun."""

LOOKING = ("cat ", "grep ", "ls ", "curl -s localhost:8000/reports/", "postbus stats", "postbus failed show")
"""How commands begin that only look, and may look again if it is too early."""


class Terminal:
    """A program that goes on, and all that it says."""

    def __init__(self, command: str, folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._read = 0
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"], cwd=folder, env=environment, stdout=out, stderr=out
            )
        self.command = command

    @property
    def said(self) -> str:
        """What it has said since the page was turned."""
        return self._log.read_bytes()[self._read :].decode()

    def turn_page(self) -> None:
        self._read = self._log.stat().st_size

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"{self.command} has ended: {self.said}"
        return any(text in self.said for text in READY)

    def close(self) -> None:
        """Press Ctrl+C, which is a good end for a worker."""
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
        assert code in (0, -signal.SIGINT), f"{self.command} ended with {code}: {self._log.read_text()}"


class Reader:
    """Types what a page has, in an empty folder; of each output, every line is looked for in what was said since.

    Each output is that of the last block of commands, and of the programs that go on meanwhile. ``instead`` is what is
    typed in place of parts of the page, such as the address of a broker.
    """

    def __init__(self, folder: Path, instead: Mapping[str, str] | None = None, **environment: str) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("POSTBUS_", "PYTEST"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
        told = {"PATH": path, "POSTBUS_STATE_DIR": str(folder), "PYTHONUNBUFFERED": "1"}
        self.environment = own | told | environment
        self.folder = folder
        self.said = ""
        self.outputs = 0
        self._instead = instead or {}
        self._block = ""
        self._terminals: list[Terminal] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def follow(self, text: str) -> None:
        """Do all that a page says."""
        for language, content in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if language == "sh":
                self.run(content)
            elif language == "text":
                self.compare(content)
            else:
                name, _, _ = content.removeprefix("# ").partition("\n")
                (self.folder / name).write_text(content, encoding="utf-8")

    def run(self, block: str) -> None:
        """Type a block of commands, one after the other."""
        self._block = block
        self.said = "".join(map(self._type, block.splitlines()))

    def _type(self, written: str) -> str:
        line = written
        for here, there in self._instead.items():
            line = line.replace(here, there)
        if line.startswith(BEFORE):
            return ""
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.environment[name] = value
            return ""
        if line.startswith(LASTING) and not any(option in line for option in ENDING):
            self._begin(line)
            return ""
        command = ["sh", "-eu", "-c", f"{line} 2>&1"]
        told = {"cwd": self.folder, "env": self.environment, "stdout": subprocess.PIPE, "text": True}
        done = subprocess.run(command, **told, timeout=60)
        assert done.returncode == 0 or written.startswith(LOOKING), f"{line}\n{done.stdout}"
        return done.stdout

    def _begin(self, line: str) -> None:
        log = self.folder / f"terminal-{len(self._terminals)}.log"
        terminal = Terminal(line, self.folder, log, self.environment)
        self._open.callback(terminal.close)
        self._terminals.append(terminal)
        wait_until(terminal.is_ready, f"{line} does not begin.")

    def compare(self, content: str) -> None:
        """See that this is said: by what was typed, or by what goes on, sooner or later."""
        lines = [line for line in content.splitlines() if line != "…"]
        expected = ".*\n.*".join(re.escape(line).replace("…", ".*") for line in lines)

        def is_said() -> bool:
            if re.search(expected, self._all_said(), re.DOTALL):
                return True
            if self._block and all(line.startswith(LOOKING) for line in self._block.splitlines()):
                self.run(self._block)
            return False

        try:
            wait_until(is_said, "It is not said.")
        except TimeoutError:
            raise AssertionError(f"Expected:\n{content}\nSaid:\n{self._all_said()}") from None
        self.outputs += 1
        for terminal in self._terminals:
            terminal.turn_page()

    def _all_said(self) -> str:
        return "".join([self.said, *(terminal.said for terminal in self._terminals)])
