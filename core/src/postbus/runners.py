"""What handles the messages of `postbus.messages`; add what you want to be run: ``app.handler(ProcessRunner(...))``."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import IO, Any, Literal

from postbus import stamps
from postbus.app import Postbus
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, PingFailed, RunFailed, Unrecoverable, describe
from postbus.messages import Answer, Completed, PingWebhook, Redispatch, RunCommand, RunProcess

MOST_OUTPUT = 64 * 1024
"""Bytes that are kept of what a command or a process writes, and of what a webhook answers."""

READERS_PATIENCE = 1.0
"""Seconds until output that a process has left to others, which it started and which go on, is not waited for."""


class Redispatcher:
    """Dispatches what is in a `Redispatch`. It sends nothing into a failure transport, whoever asks for that."""

    def __init__(self, app: Postbus) -> None:
        self._app = app

    def __call__(self, message: Redispatch) -> Envelope:
        """Return the envelope of what was dispatched."""
        forbidden = [name for name in message.transports if name in self._app.failure_transports]
        if forbidden:
            raise Unrecoverable(f"{forbidden[0]!r} keeps what has failed, and is not sent to. Name another transport.")
        if message.transports:
            return self._app.dispatch(message.message, stamps.TransportNames(message.transports))
        return self._app.dispatch(message.message)


# --- commands --------------------------------------------------------------------------------------


class CommandRunner:
    """Runs lines of the app's own command line: a click command, a typer app, or a function of a list of arguments.

    It runs in this process, beside others, so it must not change what they share: the folder, signals, the environment.
    What it writes on standard output and error is caught, unless a thread of its own does.
    """

    def __init__(self, program: Callable[[list[str]], object], *, most_output: int = MOST_OUTPUT) -> None:
        self._program = program
        self._most_output = most_output

    def __call__(self, message: RunCommand) -> Completed:
        """Return how it ended; raise `RunFailed` if it failed, with what it wrote until then."""
        try:
            arguments = shlex.split(message.line)
        except ValueError as error:
            raise Unrecoverable(f"The line of a RunCommand cannot be split: {error}.") from error
        output, errors = _Tail(self._most_output), _Tail(self._most_output)
        failure: Exception | None = None
        with _caught(output, errors):
            try:
                code = _exit_code(self._program(arguments))
            except SystemExit as error:
                code = _exit_code(error.code)
                if isinstance(error.code, str):
                    print(error.code, file=sys.stderr)  # noqa: T201  As Python does.
            except Exception as error:  # A border: it is the user's program.
                code, failure = 1, error
        completed = Completed(code, output.text, errors.text)
        if failure is not None:
            raise _failed("A command", completed, f"raised {describe(failure)}") from failure
        if code and message.check:
            raise _failed("A command", completed)
        return completed


def _exit_code(given: object) -> int:
    """Return what a process would end with if this were given to `sys.exit`."""
    if given is None or isinstance(given, int):
        return int(given or 0)
    return 1 if isinstance(given, str) else 0


_streams: ContextVar[dict[str, IO[str]] | None] = ContextVar("postbus_streams", default=None)
"""Where the command that runs in this context writes."""

_running = 0
_lock = threading.Lock()


class _Divided:
    """Stands in for a stream of `sys`: for a command it is the command's own, for all others what it was."""

    def __init__(self, name: str, original: IO[str]) -> None:
        self._name = name
        self.original = original

    def __getattr__(self, attribute: str) -> Any:
        own = _streams.get()
        return getattr(self.original if own is None else own[self._name], attribute)


@contextmanager
def _caught(output: _Tail, errors: _Tail) -> Generator[None]:
    """Let what is written in this context go there; commands may run beside each other, and beside others."""
    global _running
    streams = {name: _text(tail) for name, tail in (("stdout", output), ("stderr", errors))}
    with _lock:
        _running += 1
        for name in streams:
            if not isinstance(getattr(sys, name), _Divided):
                setattr(sys, name, _Divided(name, getattr(sys, name)))
    token = _streams.set(streams)
    try:
        yield
    finally:
        _streams.reset(token)
        with _lock:
            _running -= 1
            for name in streams:
                divided = getattr(sys, name)
                if not _running and isinstance(divided, _Divided):
                    setattr(sys, name, divided.original)


def _text(tail: _Tail) -> IO[str]:
    return io.TextIOWrapper(tail, encoding="utf-8", errors="backslashreplace", write_through=True)  # type: ignore[type-var]


class _Tail(io.RawIOBase):
    """Takes in whatever is written, and keeps the last so many bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._kept += data
        if len(self._kept) > 2 * self._most:  # Not each time, as that moves all of it.
            del self._kept[: -self._most]
        return len(data)

    @property
    def text(self) -> str:
        return bytes(self._kept[-self._most :]).decode(errors="replace")


# --- processes -------------------------------------------------------------------------------------


class ProcessRunner:
    """Runs programs: those named, by what a message calls them, or ``"*"`` for all.

    Whoever can write into its queue has a worker run them, with the rights and the environment of that worker. So name
    those that are meant, and in ``environment`` the variables that a message may set for them: ``PATH`` and others say
    what is really run. ``shell`` allows lines for the shell too, in which there may be anything.
    """

    def __init__(
        self,
        programs: Iterable[str] | Literal["*"],
        *,
        environment: Iterable[str] = (),
        shell: bool = False,
        most_output: int = MOST_OUTPUT,
    ) -> None:
        self._environment = frozenset(environment)
        self._programs = None if programs == "*" else {programs} if isinstance(programs, str) else set(programs)
        self._shell = shell
        self._most_output = most_output

    def __call__(self, message: RunProcess) -> Completed:
        """Return how it ended; raise `RunFailed` if it failed, with what it wrote until then."""
        name = "The shell" if message.shell else message.command[0]
        if message.shell and not self._shell:
            raise Unrecoverable("A line for the shell was to be run. If that is meant, write shell=True.")
        if not message.shell and self._programs is not None and name not in self._programs:
            raise Unrecoverable(f"{name!r} is no program that may be run here. If it is meant, name it.")
        if not message.shell and self._programs is not None:
            for variable in sorted(message.environment.keys() - self._environment):
                raise Unrecoverable(f"{variable!r} may not be set for programs here. If that is meant, name it.")
        output, errors = _Tail(self._most_output), _Tail(self._most_output)
        try:
            process = subprocess.Popen(  # noqa: S603  Its program is one that is allowed.
                message.command if message.shell else list(message.command),
                shell=message.shell,
                cwd=message.folder,
                env={**os.environ, **message.environment},
                stdin=subprocess.DEVNULL if message.input is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise RunFailed(f"{name} could not be started: {describe(error)}") from error
        pipes = [
            *_threads(process.stdin, lambda pipe: _feed(pipe, message.input or "")),
            *_threads(process.stdout, lambda pipe: _drain(pipe, output)),
            *_threads(process.stderr, lambda pipe: _drain(pipe, errors)),
        ]
        timed_out = False
        try:
            code = process.wait(message.timeout)
        except subprocess.TimeoutExpired:
            timed_out, code = True, _kill(process)
        except BaseException:  # The worker ends before it does.
            _kill(process)
            raise
        until = time.monotonic() + READERS_PATIENCE
        for pipe in pipes:
            pipe.join(max(until - time.monotonic(), 0.0))
        completed = Completed(code, output.text, errors.text)
        if timed_out:
            raise _failed(name, completed, f"did not end within {message.timeout:g} s, and was killed")
        if completed.exit_code and message.check:
            raise _failed(name, completed)
        return completed


def _threads(pipe: IO[bytes] | None, work: Callable[[IO[bytes]], None]) -> Iterator[threading.Thread]:
    """Begin a thread that works on a pipe, if there is one; it ends with the pipe."""
    if pipe is not None:
        thread = threading.Thread(target=work, args=(pipe,), name="postbus-process", daemon=True)
        thread.start()
        yield thread


def _feed(pipe: IO[bytes], text: str) -> None:
    # Who does not read all of its input is not to blame.
    with suppress(OSError), pipe:
        pipe.write(text.encode())


def _drain(pipe: IO[bytes], tail: _Tail) -> None:
    with pipe:
        while data := os.read(pipe.fileno(), 65_536):
            tail.write(data)


def _kill(process: subprocess.Popen[bytes]) -> int:
    """End a process and all that it has started, as far as it is in its session; return its exit code."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    return process.wait()


def _failed(name: str, completed: Completed, fact: str | None = None) -> RunFailed:
    code = completed.exit_code
    fact = fact or (f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}")
    lines = (completed.error_output.strip() or completed.output.strip()).splitlines()
    said = f": {lines[-1]}" if lines else "."
    return RunFailed(f"{name} {fact}{said}", completed.exit_code, completed.output, completed.error_output)


# --- webhooks --------------------------------------------------------------------------------------


class WebhookPinger:
    """Sends requests, with `httpx <https://www.python-httpx.org>`_: ``pip install "postbus[webhooks]"``.

    ``options`` are those of `httpx.Client`, such as ``verify`` or ``auth``.
    """

    def __init__(self, *, most_output: int = MOST_OUTPUT, **options: Any) -> None:
        try:
            import httpx  # noqa: PLC0415  Only who calls webhooks has it.
        except ModuleNotFoundError:
            raise ConfigurationError('WebhookPinger needs httpx. Install it: pip install "postbus[webhooks]"') from None
        self._httpx: Any = httpx
        self._options = options
        self._most_output = most_output

    def __call__(self, message: PingWebhook) -> Answer:
        """Return the answer; raise `PingFailed` if there is none, or if it is no success."""
        httpx = self._httpx
        host = "The webhook"
        try:
            url = httpx.URL(message.url)
            host = url.host
            # One for each message: in a process that is forked, or in several threads, nothing is shared.
            with (
                httpx.Client(timeout=message.timeout, **self._options) as client,
                client.stream(
                    message.method, url, headers=message.headers, content=message.text, json=message.json
                ) as response,
            ):
                text = self._beginning(response, time.monotonic() + message.timeout)
                answer = Answer(response.status_code, dict(response.headers), text)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Unrecoverable("A webhook's URL is no URL of http or https.") from error
        except httpx.HTTPError as error:
            raise PingFailed(f"{host} gave no answer: {describe(error)}") from error
        if answer.status >= 300 and message.check:
            raise PingFailed(f"{host} answered {answer.status}.", answer.status, answer.text)
        return answer

    def _beginning(self, response: Any, until: float) -> str:
        """Return as much of an answer as is kept; the rest, and what is late, is not waited for."""
        data = b""
        for part in response.iter_bytes():
            data += part
            if len(data) >= self._most_output or time.monotonic() > until:
                break
        return data[: self._most_output].decode(response.encoding or "utf-8", errors="replace")
