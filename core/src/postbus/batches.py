"""Batches: the messages that a handler gets together, and what has come of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar, Token
from typing import Any, Generic, Protocol, TypeVar, cast, overload

from msgspec import Struct, field

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import BatchFailed, DeferredFailed, HandlerFailed, PostbusError, Unrecoverable, describe, leaves
from postbus.provided import Provided

M = TypeVar("M", covariant=True)


class Item(Generic[M]):
    """One message of a batch. It is handled once it was acked, and has failed once it was failed, and not otherwise."""

    __slots__ = ("_is_over", "envelope", "error", "is_settled", "result")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.is_settled = False
        """Whether it was acked or failed."""
        self.error: Exception | None = None
        """What it has failed with, if it has."""
        self.result: Any = None
        self._is_over = False

    @property
    def message(self) -> M:
        """The message."""
        return cast(M, self.envelope.message)

    def ack(self, result: Any = None) -> None:
        """Say that this message was handled, with what result; its broker is told once the handler has returned.

        Raises `PostbusError` if it was acked or failed before, or if its handler has returned.
        """
        self._settle(None, result)

    def fail(self, error: Exception) -> None:
        """Say that this message has failed: it is retried or buried, as if a handler of its own had raised that."""
        self._settle(error, None)

    def conclude(self, error: Exception | None, *, surely: bool = False) -> None:
        """Take note of the end of the handler; what was said of the message before has precedence, unless ``surely``.

        Afterwards nothing can be said of it any more.
        """
        if surely or not self.is_settled:
            self.is_settled, self.error = True, error
        self._is_over = True

    def outcome(self) -> Any:
        """Return the result; raise the error instead, if it has failed."""
        if self.error is not None:
            raise self.error
        return self.result

    def _settle(self, error: Exception | None, result: Any) -> None:
        if self.is_settled or self._is_over:
            state = "its handler has returned" if self._is_over else "it was acked or failed before"
            raise PostbusError(f"Nothing can be said of {type(self.message).__qualname__} any more, as {state}.")
        self.is_settled, self.error, self.result = True, error, result


class Batch(Sequence[Item[M]]):
    """The items that a batch handler gets: ack or fail each of them.

    What it has neither acked nor failed when it returns has failed; when it raises, with what it raises.
    """

    def __init__(self, items: Sequence[Item[M]]) -> None:
        self._items = tuple(items)

    @property
    def messages(self) -> list[M]:
        """The messages of all."""
        return [item.message for item in self._items]

    @overload
    def __getitem__(self, index: int) -> Item[M]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item[M]]: ...
    def __getitem__(self, index: int | slice) -> Item[M] | Sequence[Item[M]]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item[M]]:
        return iter(self._items)


class BatchHandler(Protocol):
    """What is handed several messages at once: see `postbus.handlers.Handler`."""

    @property
    def name(self) -> str: ...
    @property
    def batch(self) -> int | None: ...
    @property
    def takes_items(self) -> bool: ...
    def handle_batch(self, items: Sequence[Item[Any]], provided: Provided | None = None) -> None:
        """Handle them; raise what the function raises."""
        ...


def conclude(items: Sequence[Item[Any]], handler: BatchHandler, error: Exception | None) -> None:
    """Take note that a batch handler has returned, or raised ``error``: then, what is not settled has failed."""
    if error is None and not handler.takes_items:
        for item in items:
            item.conclude(None)
        return
    unsettled = [item for item in items if not item.is_settled]
    if error is None:
        error = PostbusError(f"Handler {handler.name!r} has neither acked nor failed this message. Do one of both.")
    elif len(unsettled) > 1 and any(isinstance(leaf, Unrecoverable) for leaf in leaves(error)):
        # It is so of one of them, perhaps, and the others would be buried with that one.
        error = BatchFailed(
            f"Handler {handler.name!r} failed with {len(unsettled)} messages at once, so each is tried again by "
            f"itself: {describe(error)}"
        ).with_traceback(error.__traceback__)
    for item in items:
        item.conclude(error, surely=isinstance(error, DeferredFailed))


class Call(Struct, eq=False):
    """A batch handler, and the items that it is to be given."""

    handler: BatchHandler
    provided: Provided | None
    items: list[Item[Any]] = field(default_factory=list[Item[Any]])


class Collection(Struct, eq=False):
    """What has come of one message on its way to batch handlers, and its items, by the names of these."""

    envelope: Envelope
    handled: Envelope | None = None
    """The envelope that came back, unless an error did."""
    error: BaseException | None = None
    items: dict[str, Item[Any]] = field(default_factory=dict[str, Item[Any]])

    def failure(self) -> HandlerFailed | None:
        """Return the failure of the message, once all of its handlers have had it; None if none has failed.

        For one of which nothing but handlers has failed.
        """
        before = self.error if isinstance(self.error, HandlerFailed) else None
        errors = dict(before.errors) if before is not None else {}
        errors |= {name: item.error for name, item in self.items.items() if item.error is not None}
        if not errors:
            return None
        if before is not None:
            succeeded = list(before.succeeded)
        else:
            assert self.handled is not None
            succeeded = [stamp.handler for stamp in self.handled.all(stamps.Handled)]
        succeeded += [name for name, item in self.items.items() if item.error is None]
        return HandlerFailed(type(self.envelope.message).__qualname__, errors, succeeded)

    def result(self) -> Envelope:
        """Return the envelope as it comes back once all handlers have succeeded."""
        assert self.handled is not None
        added: list[stamps.Stamp] = []
        for name, item in self.items.items():
            added.append(stamps.Handled(name))
            if item.result is not None:
                added.append(stamps.Result(name, item.result))
        return self.handled.with_(*added)


class Collected:
    """What a worker handles together, on its way to the batch handlers: each message comes through its bus by itself.

    A context manager, in which `collect` is called. `HandleMessage` leaves to this what it would hand to a batch
    handler, and nothing but the very messages that are collected: what is dispatched meanwhile is handled at once.
    """

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        """What the batch handlers are to be given, by their names."""
        self._awaited: stamps.Received | None = None
        self._left: list[tuple[Call, Item[Any]]] = []
        self._token: Token[Collected | None] | None = None

    def __enter__(self) -> Collected:
        self._token = _collected.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._token is not None
        _collected.reset(self._token)

    def collect(self, envelope: Envelope, dispatch: Callable[[Envelope], Envelope]) -> Collection:
        """Dispatch a message, and return what has come of that; what is left to batch handlers is in `calls`.

        If anything but a handler has failed, nothing of the message is left to them: all of it is done again.
        """
        collection = Collection(envelope)
        self._awaited, self._left = envelope.last(stamps.Received), []
        try:
            collection.handled = dispatch(envelope)
        except BaseException as problem:  # A border: it is for who deals with failures.
            collection.error = problem
        self._awaited = None
        if collection.error is None or isinstance(collection.error, HandlerFailed):
            for call, item in self._left:
                call.items.append(item)
                collection.items[call.handler.name] = item
                self.calls[call.handler.name] = call
        return collection

    def leave(self, handler: BatchHandler, envelope: Envelope, provided: Provided | None) -> bool:
        """Take a message on its way to a batch handler; say whether that was done."""
        if self._awaited is None or not any(stamp is self._awaited for stamp in envelope.stamps):
            return False
        call = self.calls.get(handler.name) or Call(handler, provided)
        self._left.append((call, Item[Any](envelope)))
        return True


_collected: ContextVar[Collected | None] = ContextVar("postbus_collected", default=None)


def leave_to_batch(handler: BatchHandler, envelope: Envelope, provided: Provided | None) -> bool:
    """Let a message wait for others of its batch, if a worker collects one; say whether that was done."""
    collected = _collected.get()
    return collected is not None and collected.leave(handler, envelope, provided)
