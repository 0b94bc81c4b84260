"""A broker's server: a private process with a port and a folder of its own, which does not survive the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# It gets the process group to kill in lines, an empty one while there is none. When the tests are gone, in
# whichever way, its input ends.
_GUARD = 'while read -r line; do group=$line; done; [ -z "$group" ] || kill -KILL "-$group"; rm -rf -- "$1"'


class Guarded:
    """A folder, and at times a process, that do not outlive the tests, not even if those are killed."""

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"postbus-{name}-"))
        guard = ["sh", "-c", _GUARD, "guard", str(self.folder)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True, cwd="/", text=True)

    def guard(self, process: subprocess.Popen[bytes] | None) -> None:
        """Say which process leads the group that must end; None when it has ended."""
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{process.pid if process else ''}\n")
        self._guard.stdin.flush()

    def close(self) -> None:
        """End and remove what is left."""
        self._guard.communicate()


class Server(Guarded):
    """A program that runs in the background, and can be stopped and started again with the same data."""

    def __init__(self, name: str, *, user: str | None = None) -> None:
        super().__init__(name)
        self.name = name
        self.user = user if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.give_to_user(self.folder)

    def prepare(
        self,
        command: Sequence[str],
        is_ready: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Say how it is started, and how to find out that it answers."""
        self.command = list(command)
        self.is_ready = is_ready
        self.environment = None if environment is None else dict(environment)

    def give_to_user(self, path: Path) -> None:
        """Let the user that the server runs as own a file or folder."""
        if self.user is not None:
            shutil.chown(path, self.user, self.user)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self, *arguments: str) -> None:
        """Start it, with further arguments this time, and wait until it answers; nothing if it runs."""
        if self.running:
            return
        self.launch(*arguments)
        self.wait_until_ready()

    def launch(self, *arguments: str) -> None:
        """Start it without waiting."""
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [*self.command, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C is for pytest, and a signal reaches all of its processes.
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        self.guard(self._process)

    def wait_until_ready(self, patience: float = 60) -> None:
        """Return when it answers."""
        wait_until(self._answers, f"{self.name} does not answer.", patience)

    def stop(self, patience: float = 60) -> None:
        """Ask it to end, and wait until it has."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        self._reap(patience)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._reap(10)

    def pause(self) -> None:
        """Halt it with SIGSTOP: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)
        # The signal halts one thread, which halts the others when it gets its turn.
        wait_until(self._is_halted, f"{self.name} does not halt.")

    def resume(self) -> None:
        """Let a paused server go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good, and remove its data."""
        self.kill()
        super().close()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            output = (self.folder / "output").read_text(errors="replace")
            raise RuntimeError(f"{self.name} ended with code {self._process.returncode}: {output[-2000:]}")
        return self.is_ready()

    def _is_halted(self) -> bool:
        assert self._process is not None
        return {one.state for one in processes() if one.group == self._process.pid} <= {"T", "Z"}

    def _signal(self, number: int) -> None:
        if self.running:
            assert self._process is not None
            os.killpg(self._process.pid, number)

    def _reap(self, patience: float) -> None:
        assert self._process is not None
        self._process.wait(patience)
        self._process = None
        self.guard(None)


class Process(NamedTuple):
    """One that the system lists; its state is a letter: see ps(1)."""

    id: int
    parent: int
    group: int
    state: str


def processes() -> list[Process]:
    """Return all that there are."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True)
    rows = map(str.split, listed.stdout.splitlines())
    return [Process(int(id), int(parent), int(group), state[0]) for id, parent, group, state in rows]


def wait_until(condition: Callable[[], bool], otherwise: str, patience: float = 30) -> None:
    """Return when a condition holds that nobody tells us of; raise with this text if it never does."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        threading.Event().wait(0.02)
