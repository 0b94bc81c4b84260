"""Every exception of Postbus; each docstring says when it is raised."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from postbus.display import one_line

E = TypeVar("E", bound=BaseException)


class PostbusError(Exception):
    """The common ancestor, for who wants to catch them all; never raised itself."""


class ConfigurationError(PostbusError):
    """What the user declared cannot work: an option, a route, a handler's signature.

    ``problems`` holds one sentence for each mistake that was found, so that all can be mended at once.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DsnError(ConfigurationError):
    """A DSN, or an option in it, is not what its transport takes. The text holds no secret."""


class UnknownScheme(ConfigurationError):
    """No installed plugin serves the scheme of a DSN."""


class NoHandler(PostbusError):
    """A message has neither a route nor a handler, or arrived at a worker that has no handler for it."""


class NoRoute(PostbusError):
    """A message has no route, on a bus that was told to require one (``allow_no_senders = false``)."""


class HandlerFailed(PostbusError):
    """One or more handlers of a message raised; the others were run all the same.

    ``errors`` maps the name of each handler that failed to what it raised; ``succeeded`` names those
    that finished, which a retry does not run again. The cause is the first error.
    """

    def __init__(self, message_type: str, errors: Mapping[str, Exception], succeeded: Iterable[str] = ()) -> None:
        first = next(iter(errors.values()))
        others = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"Handling {message_type} failed: {describe(first)}{others}")
        self.errors = errors
        self.succeeded = tuple(succeeded)
        self.__cause__ = first


class BatchFailed(PostbusError):
    """A batch handler raised an `Unrecoverable` for several messages, which may be the fault of any one of them.

    Each is tried again by itself, so that none is buried for another one.
    """


class DeferredFailed(PostbusError):
    """A message was handled, but one that it had deferred until afterwards failed.

    A worker treats it as a failure of the whole message: what was deferred exists nowhere else, so all
    of it is done again.
    """

    def __init__(self, errors: Iterable[Exception]) -> None:
        self.errors = tuple(errors)
        super().__init__("A deferred message failed: " + "; ".join(describe(error) for error in self.errors))
        self.__cause__ = self.errors[0]


class Recoverable(PostbusError):
    """Raised by a handler, or by a subclass of the user's: try again, however often it has failed.

    ``delay`` is the wait, in seconds or as a `timedelta`; None leaves it to the transport's retry policy, and so does
    what no wait can be, such as NaN or infinity. A wait that would be over already is none.
    """

    delay: float | None = None
    """Seconds."""

    def __init__(self, *args: object, delay: float | timedelta | None = None) -> None:
        super().__init__(*args)
        if delay is None:
            return
        seconds = seconds_of(delay)
        if seconds is None:
            self.add_note(f"Its delay of {delay!r} is no number of seconds, so the retry policy decides.")
            return
        self.delay = max(seconds, 0.0)


class Unrecoverable(PostbusError):
    """Raised by a handler, or by a subclass of the user's: trying again is no use, bury the message now."""


class NotDecoded(Unrecoverable):
    """A message that came from a transport could not be decoded, so no handler has seen it."""


class Invalid(Unrecoverable):
    """A message is not what it has to be, says `postbus.validation.Validate`; ``problems`` says what, by field."""

    def __init__(self, message_type: str, problems: Mapping[str, str]) -> None:
        super().__init__(
            f"{message_type} is not valid: {'; '.join(f'{name}: {why}' for name, why in problems.items())}"
        )
        self.problems = problems


class Poisonous(Unrecoverable):
    """A message was in a worker's hands each time that one died, so no other is given it."""


class TimeLimitExceeded(PostbusError):
    """A handler took longer than its ``time_limit``; tried again as after any other failure."""


class Escaped(PostbusError):
    """A handler in a worker raised what is no `Exception`, such as SystemExit; its cause is that.

    The message has failed, as otherwise it would come again and end one worker after the other.
    """


class RunFailed(PostbusError):
    """A command or a process of `postbus.messages` failed; ``exit_code`` is None if it has not begun.

    ``output`` and ``error_output`` are what it wrote: of much, the end.
    """

    def __init__(self, message: str, exit_code: int | None = None, output: str = "", error_output: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.output = output
        self.error_output = error_output


class PingFailed(PostbusError):
    """A webhook gave no answer, or one that is no success; ``status`` is None without one."""

    def __init__(self, message: str, status: int | None = None, text: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.text = text


class StopWorker(PostbusError):
    """Raised by a handler: stop the worker after this message, which counts as failed."""


class StartFailed(PostbusError):
    """A start hook, or the factory of what handlers need, raised, so that a worker has not begun; its cause is that."""


class Interrupted(BaseException):
    """The worker ends before a handler has finished, which is no failure: its message goes back to the broker.

    Raised in a handler also when its ``time_limit`` is over; then its message has failed: see `TimeLimitExceeded`.
    No `Exception`, so that a handler which catches those does not swallow it.
    """


class SerializationError(PostbusError):
    """A message or a stamp cannot be written, or could not be read: a value has no JSON form, or a wrong type.

    When raised by ``dispatch_many``, ``position`` is which of the messages it was, and ``stored`` maps the positions
    of those that their transports have stored to their ids: all before it, and none behind.
    """

    def __init__(
        self, message: str, *, position: int | None = None, stored: Mapping[int, str | None] | None = None
    ) -> None:
        super().__init__(message)
        self.position = position
        self.stored: Mapping[int, str | None] = {} if stored is None else stored


class TransportError(PostbusError):
    """A broker refused something, or it is in doubt whether it did: the transport is to blame.

    A worker makes no other copy for it, which it might have twice then; the message comes again later.

    When raised while publishing a batch, ``stored`` maps the positions in that batch that the broker
    has certainly taken to the ids it gave them; every other position is in doubt.
    """

    def __init__(self, message: str, *, stored: Mapping[int, str | None] | None = None) -> None:
        # The words of a broker may hold what somebody has stored there.
        super().__init__(one_line(message))
        self.stored: Mapping[int, str | None] = stored or {}


class ConnectionLost(TransportError):
    """The broker cannot be reached (any more) through this connection; a new one may do better.

    Nobody knows what became of that which was under way. The transport is to blame, and waits.
    """


class MessageRefused(TransportError):
    """The broker, or the plugin, will never take a message as it is; trying again is no use, and nothing waits.

    It is too large, or has a delay that cannot be kept, or a header that the broker has no form for. ``refused``
    maps the positions of such messages to the reason, a sentence each. Their neighbours are not affected: the others
    of the batch are in ``stored``.
    """

    def __init__(self, refused: Mapping[int, str], *, stored: Mapping[int, str | None] | None = None) -> None:
        super().__init__(" ".join(dict.fromkeys(refused.values())), stored=stored)
        self.refused = refused


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors inside a failure, without its wrappers: failed handlers, groups, and causes that decide.

    An error that was raised ``from`` a `Recoverable` or an `Unrecoverable` counts as that one.
    """
    found: list[BaseException] = []
    seen: set[int] = set()
    left = [error]
    while left:  # No recursion, as groups may be nested deeper than Python can call.
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        inner = _inside(one)
        if inner is not None:
            left += reversed(inner)
            continue
        decisive = (cause for cause in causes(one) if isinstance(cause, Recoverable | Unrecoverable | StopWorker))
        found.append(next(decisive, one))
    return found or [error]


def presentable(error: E) -> E | Escaped:
    """Return an error; or another one in its place, if it fails whoever looks at what it is."""
    try:
        leaves(error)
    except Exception as problem:  # A border: it may have made anything of its attributes.
        return Escaped(f"What a handler raised cannot be looked at: {describe(problem)}")
    return error


def _inside(error: BaseException) -> list[BaseException] | None:
    """Return what a failure wraps; None if it is no wrapper."""
    if isinstance(error, HandlerFailed):
        return list(error.errors.values())
    if isinstance(error, DeferredFailed):
        return list(error.errors)
    if isinstance(error, BaseExceptionGroup):
        return list(cast("BaseExceptionGroup[BaseException]", error).exceptions)
    return None


def causes(error: BaseException) -> list[BaseException]:
    """Return an error, what it was raised ``from``, what that was raised from, and so on."""
    chain: dict[int, BaseException] = {}
    cause: BaseException | None = error
    while cause is not None and id(cause) not in chain:  # An error may be its own cause.
        chain[id(cause)] = cause
        cause = cause.__cause__
    return list(chain.values())


# --- what an error says: whatever it does when it is asked, that is no failure of who asks -----------

LONGEST_TEXT = 4096
"""Bytes; of a longer text of an error the beginning is kept."""

LONGEST_TRACEBACK = 8192
"""Bytes; of a longer one the end is kept."""

CUT = "…"
"""Stands where something was cut off."""


def describe(error: BaseException) -> str:
    """Return an error as one line, which nothing in it can break: its type and what it says."""
    text = one_line(text_of(error), LONGEST_TEXT)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def text_of(error: BaseException) -> str:
    """Return what an error says, as text that UTF-8 has a form for, and at most 4 KiB of it."""
    try:
        return cut(str(error), LONGEST_TEXT)
    except BaseException as problem:  # A border: its own code says it, or fails to. An interruption comes again.
        return f"(what it says cannot be told: {type(problem).__name__})"


def traceback_of(error: BaseException) -> str:
    """Return an error with its traceback, as Python prints it, and at most 8 KiB of that; else where it was raised."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # A border, as above; a few hundred groups in each other are too many for Python.
        text = "".join([*traceback.format_tb(error.__traceback__), describe(error), "\n"])
    return cut(text, LONGEST_TRACEBACK, keeps_end=True)


def cut(text: str, most: int, *, keeps_end: bool = False) -> str:
    """Return a text in so many bytes of UTF-8 at most; half a character, as a file's name may have it, is escaped."""
    # By the class itself: a subclass may do anything.
    encoded = str.encode(text, "utf-8", "backslashreplace")
    if len(encoded) <= most:
        return encoded.decode()
    most -= len(CUT.encode())
    if keeps_end:
        return CUT + encoded[-most:].decode(errors="ignore")
    return encoded[:most].decode(errors="ignore") + CUT


def seconds_of(given: object) -> float | None:
    """Return the seconds in a finite number or a `timedelta`; None if it is something else."""
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    try:
        seconds = float(given)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None


def qualified_name(thing: Any) -> str:
    """Return ``module.QualName``; for what the started program itself defines, by that module's real name."""
    module: str = thing.__module__
    if module in MAIN:
        module = real_name(sys.modules[module])
    return f"{module}.{thing.__qualname__}"


MAIN = ("__main__", "__mp_main__")
"""What the module of the started program is called; the latter is what a spawned process calls it."""


def real_name(module: ModuleType) -> str:
    """Return the name by which a module can be imported, also if the program was started with it."""
    if module.__spec__ is not None:
        return module.__spec__.name
    file = getattr(module, "__file__", None)
    return Path(file).stem if file else module.__name__
