"""The built-in middleware: identity, deferral, failed messages, sending, collecting, handling."""

from __future__ import annotations

import contextvars
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import ConfigurationError, Envelope, HandlerFailed, Handlers, Stamp, TransportError, stamps
from postbus.bus import MessageBus, Middleware, Next
from postbus.errors import DeferredFailed, NoHandler, NoRoute
from postbus.middleware import (
    BeginMessage,
    CollectMessages,
    HandleMessage,
    SendMessage,
    has_deferred,
    merge,
    new_id,
)
from postbus.routing import Route, Router
from postbus.testing import RecordingTransport
from postbus.transport import Sender


@dataclass(frozen=True)
class Task:
    """A message that a handler is told apart by."""

    name: str


@dataclass(frozen=True)
class Job:
    name: str


class Mark(Stamp):
    by: str


class Bus:
    """A bus with all of the built-in middleware, whose one handler looks up by name what to do."""

    def __init__(
        self,
        name: str = "main",
        senders: Mapping[str, Sender] | None = None,
        routes: Mapping[Route, Sequence[str]] | None = None,
        extra: Sequence[Middleware] = (),
    ) -> None:
        self.name = name
        self.log: list[str] = []
        self.seen: dict[str, Envelope] = {}
        self.does: dict[str, Callable[[], object]] = {}
        self.handlers = Handlers()
        self.handlers.handler(name="run")(self.run)
        self.send = SendMessage(Router(senders or {}, routes or {}))
        self.bus = MessageBus(
            name,
            [
                BeginMessage(name, ["failed"], ["work"]),
                *extra,
                self.send,
                HandleMessage(self.handlers, name),
            ],
        )

    def run(self, task: Task, envelope: Envelope) -> object:
        self.log.append(task.name)
        self.seen[task.name] = envelope
        result = self.does[task.name]() if task.name in self.does else None
        self.log.append(f"/{task.name}")
        return result

    def dispatch(self, name: str, *more: Stamp) -> Envelope:
        return self.bus.dispatch(Task(name), *more)

    def defer(self, name: str, *more: Stamp) -> Envelope:
        return self.dispatch(name, stamps.AfterCurrent(), *more)

    def started(self) -> list[str]:
        return [entry for entry in self.log if not entry.startswith("/")]


def fail(error: BaseException | None = None) -> Callable[[], None]:
    def do() -> None:
        raise error or ValueError("no")

    return do


def each(*steps: Callable[[], object]) -> Callable[[], None]:
    def do() -> None:
        for step in steps:
            step()

    return do


def id_of(envelope: Envelope) -> str:
    stamp = envelope.last(stamps.MessageId)
    assert stamp is not None
    return stamp.id


def correlation_of(envelope: Envelope) -> str:
    stamp = envelope.last(stamps.Correlation)
    assert stamp is not None
    return stamp.id


def causation_of(envelope: Envelope) -> str | None:
    stamp = envelope.last(stamps.Causation)
    return stamp.id if stamp is not None else None


# The bus's name.


def test_the_first_bus_is_noted() -> None:
    """A message gets the name of the bus that it is dispatched on, and keeps it on any other."""
    first, second = Bus("first"), Bus("second")
    envelope = first.dispatch("a")
    assert [stamps.BusName("first")] == envelope.all(stamps.BusName)
    assert [stamps.BusName("first")] == second.bus.dispatch(envelope).all(stamps.BusName)


# Ids.


def test_an_id_is_a_uuid_of_version_7() -> None:
    """It is written as RFC 9562 says, in lower case, with its version, its variant and the time in milliseconds."""
    before = time.time()
    ids = [new_id() for _ in range(1000)]
    after = time.time()
    for text in ids:
        parsed = uuid.UUID(text)
        assert (text, 7, uuid.RFC_4122) == (str(parsed), parsed.version, parsed.variant)
        assert int(before * 1000) <= parsed.int >> 80 <= int(after * 1000)


def test_ids_are_sorted_by_time() -> None:
    """Within a thread each id is greater than the one before, as text and as a number."""
    ids = [new_id() for _ in range(20_000)]
    assert sorted(ids) == ids
    assert len(ids) == len(set(ids))


def test_ids_are_unique_across_threads() -> None:
    """Threads that make ids at the same time make different ones."""
    threads = 8
    together = threading.Barrier(threads)

    def make(_: int) -> list[str]:
        together.wait()
        return [new_id() for _ in range(5_000)]

    with ThreadPoolExecutor(threads) as pool:
        made = [made for ids in pool.map(make, range(threads)) for made in ids]
    assert threads * 5_000 == len(set(made))


def forked(make: Callable[[], str]) -> str:
    """Return what a function returned in a forked process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, make().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_ids_are_unique_after_a_fork() -> None:
    """Neither parent nor siblings make the ids of a forked process, also not in the same millisecond."""

    def make() -> str:
        random.seed(0)
        return " ".join(new_id() for _ in range(100))

    families = [make().split(), *(forked(make).split() for _ in range(3)), make().split()]
    assert 500 == len({made for family in families for made in family})
    # Not by the time alone: the part that counts begins elsewhere in each process.
    assert 4 <= len({family[0][-12:-4] for family in families})


@pytest.mark.slow
def test_seeding_the_global_generator_does_not_repeat_ids() -> None:
    """Two programs that seed `random` alike make different ids, apart from the time too."""
    program = "import random; random.seed(0); from postbus.middleware import new_id; random.seed(0); print(new_id())"
    made = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert 2 == len({text[14:] for text in made})


def test_making_ids_leaves_the_global_generator_alone() -> None:
    """A program that seeded `random` gets the numbers that it would have got without us."""
    random.seed(0)
    expected = random.random()
    random.seed(0)
    new_id()
    assert expected == random.random()


# Identity.


def test_a_first_message_begins_a_conversation() -> None:
    """It gets an id, which is that of its conversation too, and nothing caused it."""
    envelope = Bus().dispatch("a")
    assert id_of(envelope) == correlation_of(envelope)
    assert causation_of(envelope) is None


def test_each_message_has_an_id_of_its_own() -> None:
    """The same object dispatched twice is two messages."""
    bus = Bus()
    assert id_of(bus.dispatch("a")) != id_of(bus.dispatch("a"))


def test_the_conversation_is_the_same_at_any_depth_and_the_cause_the_nearest() -> None:
    """What a handler dispatches has the conversation of the first message, and the handled one as its cause."""
    bus = Bus()
    bus.does = {
        "a": each(lambda: bus.dispatch("b"), lambda: bus.dispatch("d")),
        "b": lambda: bus.dispatch("c"),
    }
    a = bus.dispatch("a")
    ids = {name: id_of(envelope) for name, envelope in bus.seen.items()}
    assert 4 == len(set(ids.values()))
    assert {correlation_of(a)} == {correlation_of(envelope) for envelope in bus.seen.values()}
    assert {"a": None, "b": ids["a"], "c": ids["b"], "d": ids["a"]} == {
        name: causation_of(envelope) for name, envelope in bus.seen.items()
    }


def test_the_cause_crosses_buses() -> None:
    """A handler on one bus that dispatches on another is the cause all the same."""
    one, two = Bus("one"), Bus("two")
    one.does = {"a": lambda: two.dispatch("b")}
    envelope = one.dispatch("a")
    assert (id_of(envelope), correlation_of(envelope)) == (
        causation_of(two.seen["b"]),
        correlation_of(two.seen["b"]),
    )


def test_a_deferred_message_has_its_parent_as_cause() -> None:
    """Who deferred a message is its cause, though it is handled later."""
    bus = Bus()
    bus.does = {"a": lambda: bus.defer("b")}
    envelope = bus.dispatch("a")
    assert (id_of(envelope), correlation_of(envelope)) == (
        causation_of(bus.seen["b"]),
        correlation_of(bus.seen["b"]),
    )


@pytest.mark.parametrize("how", ["dispatch", "defer"])
def test_what_a_deferred_message_dispatches_has_that_one_as_cause(how: str) -> None:
    """The cause is the message whose handler dispatched, also where that one had been deferred."""
    bus = Bus()
    bus.does = {"a": lambda: bus.defer("b"), "b": lambda: getattr(bus, how)("c")}
    bus.dispatch("a")
    assert id_of(bus.seen["b"]) == causation_of(bus.seen["c"])


def test_an_id_that_is_there_is_kept() -> None:
    """A received message, or one that is dispatched again, keeps its id and conversation and gets no cause."""
    bus = Bus()
    again = Envelope.wrap(Task("again"), stamps.MessageId("the id"), stamps.Correlation("the conversation"))
    bus.does = {"a": lambda: bus.bus.dispatch(again)}
    bus.dispatch("a")
    seen = bus.seen["again"]
    assert ([stamps.MessageId("the id")], [stamps.Correlation("the conversation")], None) == (
        seen.all(stamps.MessageId),
        seen.all(stamps.Correlation),
        causation_of(seen),
    )


def test_what_a_received_message_causes_belongs_to_its_conversation() -> None:
    """In a worker too, what a handler dispatches has the received message's conversation, and its id as cause."""
    bus = Bus()
    bus.does = {"a": lambda: bus.dispatch("b")}
    bus.dispatch("a", stamps.MessageId("m"), stamps.Correlation("c"), stamps.Received("t"))
    assert ("m", "c") == (causation_of(bus.seen["b"]), correlation_of(bus.seen["b"]))


def test_a_received_message_without_a_conversation_begins_one() -> None:
    """Where only the id came along, the conversation is that of the message itself."""
    assert "m" == correlation_of(Bus().dispatch("a", stamps.MessageId("m"), stamps.Received("t")))


def test_a_conversation_that_is_given_is_kept() -> None:
    """Who knows the conversation, from a web request say, may put it on; nested messages have it too."""
    bus = Bus()
    bus.does = {"a": lambda: bus.dispatch("b")}
    bus.dispatch("a", stamps.Correlation("request 5"))
    assert ["request 5", "request 5"] == [correlation_of(envelope) for envelope in bus.seen.values()]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_error_leaves_no_identity_behind(error: BaseException) -> None:
    """After a failure, at any depth, the next message begins a conversation of its own."""
    bus = Bus()
    bus.does = {"a": lambda: bus.dispatch("b"), "b": fail(error)}
    with pytest.raises((HandlerFailed, KeyboardInterrupt)):
        bus.dispatch("a")
    envelope = bus.dispatch("c")
    assert (id_of(envelope), None) == (correlation_of(envelope), causation_of(envelope))


def test_a_failed_child_leaves_its_parent_the_current_one() -> None:
    """A handler that catches a nested failure and goes on is still the cause of what it dispatches next."""
    bus = Bus()

    def recover() -> None:
        with pytest.raises(HandlerFailed):
            bus.dispatch("b")
        bus.dispatch("c")

    bus.does = {"a": recover, "b": fail()}
    assert id_of(bus.dispatch("a")) == causation_of(bus.seen["c"])


def test_threads_have_conversations_of_their_own() -> None:
    """Messages that are handled at the same time in two threads are not each other's cause."""
    bus = Bus()
    both_inside = threading.Barrier(2)
    bus.does = {
        "a": each(both_inside.wait, lambda: bus.dispatch("c")),
        "b": each(both_inside.wait, lambda: bus.dispatch("d")),
    }
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(bus.dispatch, "ab"))
    assert [id_of(bus.seen["a"]), id_of(bus.seen["b"])] == [causation_of(bus.seen[name]) for name in "cd"]
    assert correlation_of(bus.seen["a"]) != correlation_of(bus.seen["b"])


# Deferral.


def test_a_deferred_message_comes_after_the_current_one() -> None:
    """What is deferred waits for the handler to finish, in the order of the dispatches; what is not does not wait."""
    bus = Bus()
    bus.does = {"a": each(lambda: bus.defer("b"), lambda: bus.dispatch("now"), lambda: bus.defer("c"))}
    bus.dispatch("a")
    assert ["a", "now", "/now", "/a", "b", "/b", "c", "/c"] == bus.log


def test_a_middleware_can_ask_whether_anything_is_deferred() -> None:
    """While the message is handled that it waits for; and there is nothing any more once it has been sent."""
    bus, seen = Bus(), list[bool]()
    bus.does = {
        "a": each(lambda: seen.append(has_deferred()), lambda: bus.defer("b"), lambda: seen.append(has_deferred()))
    }
    bus.dispatch("a")

    assert ([False, True], False) == (seen, has_deferred())


def test_a_deferred_dispatch_returns_the_envelope_unprocessed() -> None:
    """The caller gets the envelope back at once, still to be deferred and neither handled nor sent."""
    transport = RecordingTransport()
    bus = Bus(senders={"t": transport}, routes={Job: ["t"]})
    returned: list[Envelope] = []
    bus.does = {
        "a": each(
            lambda: returned.append(bus.defer("b")),
            lambda: returned.append(bus.bus.dispatch(Job("j"), stamps.AfterCurrent())),
            lambda: returned.append(Envelope("how many were sent", tuple(transport.sent))),
        )
    }
    bus.dispatch("a")
    assert [Task("b"), Job("j"), "how many were sent"] == [envelope.message for envelope in returned]
    assert () == returned[2].stamps
    for envelope in returned[:2]:
        assert envelope.has(stamps.AfterCurrent)
        assert not envelope.has(stamps.Handled)
        assert not envelope.has(stamps.Sent)
    assert [Job("j")] == transport.messages
    assert not transport.sent[0].has(stamps.AfterCurrent)
    assert id_of(returned[1]) == id_of(transport.sent[0])


def test_outside_of_a_handler_it_is_a_plain_dispatch() -> None:
    """With nothing to wait for, the message is handled at once and the stamp taken off."""
    bus = Bus()
    envelope = bus.defer("a")
    assert ["a", "/a"] == bus.log
    assert envelope.has(stamps.Handled)
    assert not envelope.has(stamps.AfterCurrent)
    assert not bus.seen["a"].has(stamps.AfterCurrent)


def test_a_plain_dispatch_of_that_kind_is_waited_for_too() -> None:
    """What its handler defers comes after it."""
    bus = Bus()
    bus.does = {"a": lambda: bus.defer("b")}
    bus.defer("a")
    assert ["a", "/a", "b", "/b"] == bus.log


def test_deferred_messages_go_breadth_first() -> None:
    """What a deferred message defers comes after all those that were there before it."""
    bus = Bus()
    bus.does = {
        "a": each(lambda: bus.defer("b"), lambda: bus.defer("c")),
        "b": each(lambda: bus.defer("b1"), lambda: bus.defer("b2")),
        "c": lambda: bus.defer("c1"),
        "b1": lambda: bus.defer("b11"),
    }
    bus.dispatch("a")
    assert ["a", "b", "c", "b1", "b2", "c1", "b11"] == bus.started()


def test_what_a_nested_message_defers_waits_for_the_outermost() -> None:
    """A message deferred at any depth comes after the outermost handler, not after the nearest."""
    bus = Bus()
    bus.does = {"a": lambda: bus.dispatch("inner"), "inner": lambda: bus.defer("b")}
    bus.dispatch("a")
    assert ["a", "inner", "/inner", "/a", "b", "/b"] == bus.log


def test_if_the_outermost_fails_the_deferred_are_forgotten() -> None:
    """What a failed message deferred is never handled, also not by the next message."""
    bus = Bus()
    bus.does = {"a": each(lambda: bus.defer("b"), fail()), "c": lambda: bus.defer("d")}
    with pytest.raises(HandlerFailed):
        bus.dispatch("a")
    bus.dispatch("c")
    assert ["a", "c", "d"] == bus.started()


def test_what_a_caught_nested_failure_deferred_is_kept() -> None:
    """The outermost message decides: if it succeeds, what was deferred inside of it is done."""
    bus = Bus()

    def recover() -> None:
        with pytest.raises(HandlerFailed):
            bus.dispatch("inner")

    bus.does = {"a": recover, "inner": each(lambda: bus.defer("b"), fail())}
    bus.dispatch("a")
    assert ["a", "inner", "b"] == bus.started()


def test_a_failing_sibling_stops_only_what_it_deferred_itself() -> None:
    """Its siblings, and what those defer, are handled; then one error tells of all that failed."""
    bus = Bus()
    bus.does = {
        "a": each(*(lambda name=name: bus.defer(name) for name in ["b", "c", "d", "e"])),
        "b": lambda: bus.defer("b1"),
        "c": each(lambda: bus.defer("c1"), lambda: bus.defer("c2"), fail(ValueError("first"))),
        "d": lambda: bus.defer("d1"),
        "e": each(lambda: bus.defer("e1"), fail(KeyError("second"))),
    }
    with pytest.raises(DeferredFailed) as caught:
        bus.dispatch("a")
    assert ["a", "b", "c", "d", "e", "b1", "d1"] == bus.started()
    assert ["first", "'second'"] == [str(error.__cause__) for error in caught.value.errors]
    assert caught.value.errors[0] is caught.value.__cause__
    assert (
        "A deferred message failed: HandlerFailed: Handling Task failed: ValueError: first; HandlerFailed: "
        "Handling Task failed: KeyError: 'second'" == str(caught.value)
    )


def test_after_a_failed_deferred_message_everything_is_as_before() -> None:
    """The next message is the outermost again, and nothing waits."""
    bus = Bus()
    bus.does = {"a": lambda: bus.defer("b"), "b": fail(), "c": lambda: bus.defer("d")}
    for _ in range(2):
        with pytest.raises(DeferredFailed):
            bus.dispatch("a")
    bus.log.clear()
    bus.dispatch("c")
    assert ["c", "/c", "d", "/d"] == bus.log
    bus.log.clear()
    bus.defer("d")
    assert ["d", "/d"] == bus.log


@pytest.mark.parametrize("failing", ["a", "b"])
def test_an_interrupt_leaves_no_state_behind(failing: str) -> None:
    """An error that is no `Exception` passes at once, from a handler or a deferred one; the next dispatch is new."""
    bus = Bus()
    defer_two = each(lambda: bus.defer("b"), lambda: bus.defer("c"))
    bus.does = {"a": defer_two, failing: each(defer_two if failing == "a" else int, fail(KeyboardInterrupt()))}
    with pytest.raises(KeyboardInterrupt):
        bus.dispatch("a")
    assert "c" not in bus.started()
    bus.log.clear()
    bus.defer("d")
    bus.does = {"a": lambda: bus.defer("e")}
    bus.dispatch("a")
    assert ["d", "/d", "a", "/a", "e", "/e"] == bus.log


def test_a_message_may_be_deferred_for_another_bus() -> None:
    """It waits for the outermost message of any bus, and goes on on its own, with that bus's middleware."""
    passed: list[str] = []

    def note(envelope: Envelope, call_next: Next) -> Envelope:
        passed.append(envelope.message.name)
        return call_next(envelope)

    one, two = Bus("one"), Bus("two", extra=[note])
    one.does = {"a": each(lambda: two.defer("b"), lambda: one.defer("c"), lambda: one.log.append("a is done"))}
    two.does = {"b": lambda: one.log.append("b ran")}
    one.dispatch("a")
    assert ["a", "a is done", "/a", "b ran", "c", "/c"] == one.log
    assert ["b"] == passed
    assert stamps.BusName("two") == two.seen["b"].last(stamps.BusName)


def test_the_users_middleware_sees_a_deferred_message_when_its_turn_has_come() -> None:
    """What stands behind in the chain, such as a transaction, is entered for it only then."""
    log: list[str] = []

    def transaction(envelope: Envelope, call_next: Next) -> Envelope:
        log.append(f"begin {envelope.message.name}")
        result = call_next(envelope)
        log.append(f"commit {envelope.message.name}")
        return result

    bus = Bus(extra=[transaction])
    bus.does = {"a": lambda: bus.defer("b")}
    bus.dispatch("a")
    assert ["begin a", "commit a", "begin b", "commit b"] == log


def test_threads_defer_independently() -> None:
    """A message that is being handled in one thread makes no other thread wait."""
    bus = Bus()
    ends: list[str] = []

    def in_another_thread() -> None:
        thread = threading.Thread(target=lambda: ends.extend([bus.defer("b").message.name, *bus.started()]))
        thread.start()
        thread.join()

    bus.does = {"a": in_another_thread}
    bus.dispatch("a")
    assert ["b", "a", "b"] == ends
    assert ["a", "b", "/b", "/a"] == bus.log


def test_deferring_after_the_outermost_has_ended_is_a_plain_dispatch() -> None:
    """Work that a handler left running, with its context, has nothing to wait for once the handler has ended."""
    bus = Bus()
    left_running: list[contextvars.Context] = []
    bus.does = {"a": lambda: left_running.append(contextvars.copy_context())}
    bus.dispatch("a")
    (context,) = left_running
    context.run(bus.defer, "b")
    assert ["a", "b"] == bus.started()


def test_deferring_needs_no_root_of_the_same_kind() -> None:
    """A message without a handler's result, because it was sent, ends too, and then the deferred ones go on."""
    transport = RecordingTransport()
    bus = Bus(senders={"t": transport}, routes={Job: ["t"]})

    def defer_before_sending(envelope: Envelope, call_next: Next) -> Envelope:
        if isinstance(envelope.message, Job):
            bus.defer("b")
        return call_next(envelope)

    bus.bus = MessageBus("main", [BeginMessage("main"), defer_before_sending, *bus.bus.middleware[-2:]])
    bus.bus.dispatch(Job("j"))
    assert ["b"] == bus.started()
    assert [Job("j")] == transport.messages


# Failed messages.


def test_a_buried_message_is_handled_as_if_it_came_from_where_it_failed() -> None:
    """Coming out of a failure transport, it gets the handlers of the transport that it had come from."""
    seen: list[str] = []
    handlers = Handlers()
    for name in ("work", "failed"):
        handlers.handler(name=name, handles=Task, from_transport=name)(lambda task, name=name: seen.append(name))
    bus = MessageBus("b", [BeginMessage("b", ["failed"], ["work"]), HandleMessage(handlers, "b")])
    envelope = bus.dispatch(Task("a"), stamps.Buried("work"), stamps.Received("failed", 1))
    assert ["work"] == seen
    assert [stamps.Received("failed", 1), stamps.Received("work")] == envelope.all(stamps.Received)


@pytest.mark.parametrize("given", [(), (stamps.Received("work", 1),), (stamps.Buried("work"),)], ids=["", "r", "b"])
def test_other_messages_are_left_alone(given: tuple[Stamp, ...]) -> None:
    """A message that was not buried, or is not received, passes as it is."""
    envelope = Envelope.wrap(Task("a"), *given)
    passed = MessageBus("b", [BeginMessage("b", ["failed"], ["work"])]).dispatch(envelope)
    assert envelope == passed.without(stamps.BusName, stamps.MessageId, stamps.Correlation)


@pytest.mark.parametrize(("origin", "buried"), [("work", "payments"), ("failed", "failed"), ("failed", "elsewhere")])
def test_a_forged_burial_leads_to_no_other_handlers(origin: str, buried: str) -> None:
    """Anybody can write that a message was buried. It counts only out of a failure transport, and for the others."""
    seen: list[str] = []
    handlers = Handlers()
    for name in ("work", "payments", "failed", "elsewhere"):
        handlers.handler(name=name, handles=Task, from_transport=name)(lambda task, name=name: seen.append(name))
    bus = MessageBus("b", [BeginMessage("b", ["failed"], ["work", "payments"]), HandleMessage(handlers, "b")])
    bus.dispatch(Task("a"), stamps.Buried(buried), stamps.Received(origin, 1))
    assert [origin] == seen


# Sending.


class Numbering:
    """A transport that puts a stamp of its own on what it sends."""

    def __init__(self, name: str, log: list[str] | None = None) -> None:
        self.name = name
        self.log = log if log is not None else []
        self.sent: list[Envelope] = []

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        self.log.append(self.name)
        self.sent += envelopes
        return [
            envelope.with_(stamps.Sent(self.name, str(number)), Mark(self.name))
            for number, envelope in enumerate(envelopes)
        ]


class Handling(Numbering):
    """A transport that handles at once, as if the message had been received."""

    def __init__(self, name: str, bus: Bus) -> None:
        super().__init__(name)
        self.bus = bus

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        return [
            self.bus.bus.dispatch(envelope, stamps.Received(self.name))
            .without(stamps.Received)
            .with_(stamps.Sent(self.name))
            for envelope in envelopes
        ]


class Refusing:
    """A transport whose broker takes only the first so many of a batch."""

    def __init__(self, takes: int = 0, error: Exception | None = None) -> None:
        self.takes = takes
        self.error = error

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        raise self.error or TransportError("full", stored={number: f"id {number}" for number in range(self.takes)})


def sending(senders: Mapping[str, Sender], routes: Mapping[Route, Sequence[str]], **options: Any) -> MessageBus:
    handlers = Handlers()
    handlers.handler(name="here", handles="*")(lambda message: "handled")
    return MessageBus("b", [SendMessage(Router(senders, routes), **options), HandleMessage(handlers, "b")])


def test_a_routed_message_is_sent_and_not_handled_here() -> None:
    """The envelope comes back with what the transport put on it; no handler runs."""
    transport = Numbering("t")
    envelope = sending({"t": transport}, {Task: ["t"]}).dispatch(Task("a"), Mark("mine"))
    assert (Mark("mine"), stamps.Sent("t", "0"), Mark("t")) == envelope.stamps
    assert [Envelope.wrap(Task("a"), Mark("mine"))] == transport.sent


def test_a_message_without_a_route_is_handled_here() -> None:
    """It goes on down the chain, unless the bus requires a route, which the error says how to give."""
    assert sending({}, {}).dispatch(Task("a")).has(stamps.Handled)
    with pytest.raises(NoRoute) as caught:
        sending({}, {}, allow_no_senders=False).dispatch(Task("a"))
    assert (
        f"{__name__}.Task has no route, and this bus requires one. Add it to routing, or set allow_no_senders on the "
        "bus." == str(caught.value)
    )


def test_several_senders_are_asked_in_the_order_of_the_route() -> None:
    """Each gets the message, and what each put on is on the envelope, in that order."""
    log: list[str] = []
    senders = {name: Numbering(name, log) for name in "abc"}
    envelope = sending(senders, {Task: ["c", "a", "b"]}).dispatch(Task("x"))
    assert ["c", "a", "b"] == log
    assert ["c", "a", "b"] == [sent.transport for sent in envelope.all(stamps.Sent)]
    assert ["c", "a", "b"] == [mark.by for mark in envelope.all(Mark)]


def test_one_sender_does_not_see_what_another_put_on() -> None:
    """Every transport gets the envelope as it was before the first of them."""
    senders = {name: Numbering(name) for name in "ab"}
    sending(senders, {Task: ["a", "b"]}).dispatch(Task("x"), Mark("mine"))
    expected = [Envelope.wrap(Task("x"), Mark("mine"))]
    assert [expected, expected] == [sender.sent for sender in senders.values()]


@pytest.mark.parametrize("order", [["now", "later"], ["later", "now"]])
def test_what_is_handled_at_once_is_not_handled_for_the_others(order: list[str]) -> None:
    """A transport that handles returns the result, and the copy for the other says nothing of it, in either order."""
    inner = Bus("inner")
    inner.does = {"x": lambda: "the result"}
    later = Numbering("later")
    envelope = sending({"now": Handling("now", inner), "later": later}, {Task: order}).dispatch(Task("x"))
    assert ["x", "/x"] == inner.log
    assert [stamps.Handled("run")] == envelope.all(stamps.Handled)
    assert [stamps.Result("run", "the result")] == envelope.all(stamps.Result)
    assert order == [sent.transport for sent in envelope.all(stamps.Sent)]
    assert not envelope.has(stamps.Received)
    (copy,) = later.sent
    assert () == copy.stamps


def test_a_received_message_is_never_sent() -> None:
    """Whatever its route or its names say, what came from a transport is handled here."""
    transport = Numbering("t")
    for options in ({}, {"allow_no_senders": False}):
        bus = sending({"t": transport}, {Task: ["t"]}, **options)
        for more in ((), (stamps.TransportNames(["t"]),)):
            assert bus.dispatch(Task("a"), stamps.Received("t"), *more).has(stamps.Handled)
    assert [] == transport.sent


def test_transport_names_decide() -> None:
    """The stamp says where the message goes; an empty list means here, or nowhere where a route is required."""
    senders = {name: Numbering(name) for name in "ab"}
    bus = sending(senders, {Task: ["a"]})
    assert ["b"] == [sent.transport for sent in bus.dispatch(Task("x"), stamps.TransportNames(["b"])).all(stamps.Sent)]
    here = bus.dispatch(Task("x"), stamps.TransportNames([]))
    assert (True, False) == (here.has(stamps.Handled), here.has(stamps.Sent))
    with pytest.raises(NoRoute):
        sending(senders, {Task: ["a"]}, allow_no_senders=False).dispatch(Task("x"), stamps.TransportNames([]))
    with pytest.raises(ConfigurationError, match="There is no transport 'c'"):
        bus.dispatch(Task("x"), stamps.TransportNames(["c"]))


def test_what_a_sender_raises_reaches_the_caller() -> None:
    """No handler runs in the place of a broker that is away, and later transports are not asked."""
    after = Numbering("after")
    error = TransportError("away")
    with pytest.raises(TransportError) as caught:
        sending({"bad": Refusing(error=error), "after": after}, {Task: ["bad", "after"]}).dispatch(Task("x"))
    assert error is caught.value
    assert [] == after.sent


def test_what_two_have_added_comes_together() -> None:
    """Of two envelopes with one origin, the result has the stamps of the first and those that the second has got."""
    origin = Envelope.wrap(Task("x"), Mark("mine"))
    one, other = origin.with_(Mark("a")), origin.with_(Mark("b"))
    assert (Mark("mine"), Mark("a"), Mark("b")) == merge(origin, one, other).stamps
    assert other is merge(origin, origin, other)


# Sending many.


class Many:
    """Dispatches many messages as the app does: through a chain that collects, and then flushes."""

    def __init__(self, senders: Mapping[str, Sender], routes: Mapping[Route, Sequence[str]]) -> None:
        handlers = Handlers()
        handlers.handler(name="here", handles="*")(lambda message: message.name)
        self.collect = CollectMessages(SendMessage(Router(senders, routes)))
        self.bus = MessageBus("b", [BeginMessage("b"), self.collect, HandleMessage(handlers, "b")])

    def dispatch(self, messages: Sequence[Any], *more: Stamp) -> list[Envelope]:
        envelopes: list[Envelope] = []
        for position, message in enumerate(messages):
            self.collect.position = position
            envelopes.append(self.bus.dispatch(message, *more))
        self.collect.is_over = True
        self.collect.flush(envelopes)
        return envelopes


def test_many_messages_go_in_one_batch_for_each_transport() -> None:
    """Each transport is asked once, with its messages in their order."""
    log: list[str] = []
    a, b = Numbering("a", log), Numbering("b", log)
    messages = [Task("1"), Job("2"), Task("3"), Job("4")]
    envelopes = Many({"a": a, "b": b}, {Task: ["a"], Job: ["b"]}).dispatch(messages)
    assert ["a", "b"] == log
    assert [[Task("1"), Task("3")], [Job("2"), Job("4")]] == [
        [envelope.message for envelope in transport.sent] for transport in (a, b)
    ]
    assert messages == [envelope.message for envelope in envelopes]
    assert [stamps.Sent("a", "0"), stamps.Sent("b", "0"), stamps.Sent("a", "1"), stamps.Sent("b", "1")] == [
        envelope.last(stamps.Sent) for envelope in envelopes
    ]


def test_the_same_object_many_times_is_as_many_messages() -> None:
    """Positions count, not the objects: each has its own id, and its own stamps come back."""
    transport = Numbering("t")
    envelopes = Many({"t": transport}, {Task: ["t"]}).dispatch([Task("x")] * 3)
    assert [stamps.Sent("t", str(number)) for number in range(3)] == [e.last(stamps.Sent) for e in envelopes]
    assert [id_of(envelope) for envelope in transport.sent] == [id_of(envelope) for envelope in envelopes]
    assert 3 == len({id_of(envelope) for envelope in envelopes})


def test_some_may_be_handled_here_and_others_sent() -> None:
    """What has no route is handled on the way, and what is sent takes no result from it."""
    transport = Numbering("t")
    envelopes = Many({"t": transport}, {Job: ["t"]}).dispatch([Task("1"), Job("2"), Task("3"), Job("4")])
    assert ["1", None, "3", None] == [
        result.value if (result := envelope.last(stamps.Result)) else None for envelope in envelopes
    ]
    assert [False, True, False, True] == [envelope.has(stamps.Sent) for envelope in envelopes]
    assert [Job("2"), Job("4")] == [envelope.message for envelope in transport.sent]


def test_several_transports_of_one_message_do_not_see_each_other() -> None:
    """Each batch holds the envelopes as they were; what all of them put on comes back."""
    a, b = Numbering("a"), Numbering("b")
    (envelope,) = Many({"a": a, "b": b}, {Task: ["a", "b"]}).dispatch([Task("x")])
    assert ["a", "b"] == [sent.transport for sent in envelope.all(stamps.Sent)]
    assert [False, False] == [transport.sent[0].has(stamps.Sent) for transport in (a, b)]


def test_after_a_flush_there_is_nothing_left() -> None:
    """What was sent is not sent again with the next batch, and an empty batch asks no transport."""
    log: list[str] = []
    many = Many({"t": Numbering("t", log)}, {Task: ["t"]})
    many.dispatch([])
    assert [] == log
    envelopes = many.dispatch([Task("1")])
    many.collect.flush(envelopes)
    many.dispatch([Task("2")])
    assert ["t", "t"] == log
    assert 1 == len(envelopes[0].all(stamps.Sent))


def test_transport_names_count_for_many_too() -> None:
    """The stamp that is given to all of them overrides the routes of each."""
    a, b = Numbering("a"), Numbering("b")
    many = Many({"a": a, "b": b}, {Task: ["a"]})
    many.dispatch([Task("1"), Job("2")], stamps.TransportNames(["b"]))
    assert ([], 2) == (a.sent, len(b.sent))
    assert [True, True] == [
        envelope.has(stamps.Handled) for envelope in many.dispatch([Task("1"), Job("2")], stamps.TransportNames([]))
    ]


def test_a_batch_that_is_taken_in_part_tells_the_positions_of_the_messages() -> None:
    """``stored`` has the positions among all messages, not those in the transport's own batch."""
    messages = [Task("0"), Job("1"), Task("2"), Job("3"), Job("4")]
    with pytest.raises(TransportError) as caught:
        Many({"t": Refusing(takes=2)}, {Job: ["t"]}).dispatch(messages)
    assert {1: "id 0", 3: "id 1"} == caught.value.stored


def test_what_an_earlier_transport_took_is_told_as_stored() -> None:
    """``stored`` has every message that is stored for certain, also those of the batches before."""
    with pytest.raises(TransportError) as caught:
        Many({"good": Numbering("good"), "bad": Refusing()}, {Task: ["good"], Job: ["bad"]}).dispatch(
            [Task("0"), Job("1"), Task("2")]
        )
    assert {0, 2} == set(caught.value.stored)


def test_a_message_of_two_transports_is_stored_only_if_both_took_it() -> None:
    """A message that one transport has taken and another has not is in doubt."""
    with pytest.raises(TransportError) as caught:
        Many({"bad": Refusing(takes=1), "good": Numbering("good")}, {Task: ["bad", "good"]}).dispatch(
            [Task("0"), Task("1")]
        )
    assert {} == caught.value.stored


def test_a_received_message_among_many_is_not_sent() -> None:
    """What came from a transport is handled here, also where many are dispatched together."""
    transport = Numbering("t")
    (envelope,) = Many({"t": transport}, {Task: ["t"]}).dispatch([Envelope.wrap(Task("x"), stamps.Received("t"))])
    assert [] == transport.sent
    assert envelope.has(stamps.Handled)


def test_many_deferred_messages_are_sent_when_their_turn_has_come() -> None:
    """Many messages that a handler dispatches together with AfterCurrent are sent once it has succeeded."""
    transport = Numbering("t")
    many = Many({"t": transport}, {Job: ["t"]})
    bus = Bus()
    bus.does = {"a": lambda: many.dispatch([Job("1"), Job("2")], stamps.AfterCurrent())}
    bus.dispatch("a")
    assert [Job("1"), Job("2")] == [envelope.message for envelope in transport.sent]


# Handling.


def handling(handlers: Handlers, **options: Any) -> MessageBus:
    return MessageBus("b", [HandleMessage(handlers, "b", **options)])


def noting(log: list[str], *names: str, error: Exception | None = None) -> Handlers:
    """Return handlers that note their names; those that begin with a minus raise."""
    handlers = Handlers()

    def note(name: str) -> None:
        log.append(name)
        if name.startswith("-"):
            raise error or ValueError(name)

    for name in names:
        handlers.handler(name=name, handles=Task)(lambda task, name=name: note(name))
    return handlers


def test_every_handler_leaves_its_stamp() -> None:
    """The envelope comes back with the names of the handlers in the order in which they ran."""
    log: list[str] = []
    envelope = handling(noting(log, "a", "b")).dispatch(Task("x"), Mark("mine"))
    assert ["a", "b"] == log
    assert (Mark("mine"), stamps.Handled("a"), stamps.Handled("b")) == envelope.stamps


@pytest.mark.parametrize(
    "value",
    [0, "", [], False, ValueError("returned, not raised"), pytest.param(object(), id="object()")],
    ids=repr,
)
def test_the_result_is_for_the_caller(value: object) -> None:
    """What a handler returns is on the envelope as it is, beside the stamp that it was handled."""
    handlers = Handlers()
    handlers.handler(name="a", handles=Task)(lambda task: value)
    envelope = handling(handlers).dispatch(Task("x"))
    assert [stamps.Handled("a")] == envelope.all(stamps.Handled)
    (result,) = envelope.all(stamps.Result)
    assert ("a", True) == (result.handler, value is result.value)


def test_a_handler_that_returns_none_leaves_no_result() -> None:
    """None is no result; that it was handled says the other stamp."""
    envelope = handling(noting([], "a")).dispatch(Task("x"))
    assert ([stamps.Handled("a")], []) == (envelope.all(stamps.Handled), envelope.all(stamps.Result))


def test_all_handlers_run_although_one_fails() -> None:
    """The error has each that failed by name, in order, and those that succeeded; its cause is the first."""
    log: list[str] = []
    with pytest.raises(HandlerFailed) as caught:
        handling(noting(log, "a", "-b", "c", "-d", "e")).dispatch(Task("x"))
    assert ["a", "-b", "c", "-d", "e"] == log
    failed = caught.value
    assert [("-b", "-b"), ("-d", "-d")] == [(name, str(error)) for name, error in failed.errors.items()]
    assert ("a", "c", "e") == failed.succeeded
    assert failed.errors["-b"] is failed.__cause__
    assert "Handling Task failed: ValueError: -b (and 1 more)" == str(failed)


def test_an_interrupt_in_a_handler_passes_at_once() -> None:
    """What is not an `Exception` is no failure of the message, and no further handler runs."""
    log: list[str] = []
    handlers = noting(log, "a")
    handlers.handler(name="b", handles=Task)(lambda task: fail(KeyboardInterrupt())())
    handlers.include(noting(log, "c"))
    with pytest.raises(KeyboardInterrupt):
        handling(handlers).dispatch(Task("x"))
    assert ["a"] == log


def test_who_has_succeeded_before_is_not_run_again() -> None:
    """A retried message runs only in the handlers that its stamps do not name."""
    log: list[str] = []
    envelope = handling(noting(log, "a", "b", "c")).dispatch(
        Task("x"), stamps.Handled("a"), stamps.Handled("somebody else"), stamps.Handled("c")
    )
    assert ["b"] == log
    assert ["a", "somebody else", "c", "b"] == [handled.handler for handled in envelope.all(stamps.Handled)]


def test_a_message_that_all_have_handled_already_is_fine() -> None:
    """Nothing is left to do, which is no lack of handlers."""
    log: list[str] = []
    envelope = handling(noting(log, "a")).dispatch(Task("x"), stamps.Handled("a"))
    assert ([], (stamps.Handled("a"),)) == (log, envelope.stamps)


def test_only_the_newly_succeeded_are_told() -> None:
    """The error names those that succeeded this time; the earlier ones are on the envelope."""
    with pytest.raises(HandlerFailed) as caught:
        handling(noting([], "a", "-b", "c")).dispatch(Task("x"), stamps.Handled("a"))
    assert (("c",), ["-b"]) == (caught.value.succeeded, list(caught.value.errors))


def test_without_a_handler_the_error_says_how_to_fix_it() -> None:
    """Where it was dispatched: a route or a handler is missing. In a worker: the handler's module, or its transport."""
    bus = handling(Handlers())
    with pytest.raises(NoHandler) as caught:
        bus.dispatch(Task("x"))
    assert (
        f"{__name__}.Task has neither a route nor a handler on bus 'b'. Add it to routing, or add a handler with "
        "@app.handler." == str(caught.value)
    )
    with pytest.raises(NoHandler) as caught:
        bus.dispatch(Task("x"), stamps.Received("t"))
    assert (
        f"No handler on bus 'b' takes {__name__}.Task from 't'. Add one with @app.handler, and let the worker import "
        "its module." == str(caught.value)
    )


def test_a_bus_may_allow_messages_without_a_handler() -> None:
    """Then the envelope goes on unhandled."""
    assert Envelope.wrap(Task("x")) == handling(Handlers(), allow_no_handlers=True).dispatch(Task("x"))


def test_a_handler_for_another_transport_does_not_count() -> None:
    """A received message whose handlers are all for other transports has none; in this process it has all."""
    handlers = Handlers()
    handlers.handler(name="a", handles=Task, from_transport="a")(lambda task: None)
    bus = handling(handlers)
    assert bus.dispatch(Task("x")).has(stamps.Handled)
    assert bus.dispatch(Task("x"), stamps.Received("a")).has(stamps.Handled)
    with pytest.raises(NoHandler):
        bus.dispatch(Task("x"), stamps.Received("b"))


def test_the_newest_received_stamp_counts() -> None:
    """Where a message came from last decides which handlers it gets."""
    handlers = Handlers()
    for name in "ab":
        handlers.handler(name=name, handles=Task, from_transport=name)(lambda task: None)
    envelope = handling(handlers).dispatch(Task("x"), stamps.Received("a"), stamps.Received("b"))
    assert [stamps.Handled("b")] == envelope.all(stamps.Handled)


def test_what_stands_behind_runs_after_success_only() -> None:
    """The rest of the chain gets the envelope with the handlers' stamps, and nothing after a failure."""
    after: list[Envelope] = []

    def last(envelope: Envelope, call_next: Next) -> Envelope:
        after.append(envelope)
        return call_next(envelope)

    MessageBus("b", [HandleMessage(noting([], "a"), "b"), last]).dispatch(Task("x"))
    assert [[stamps.Handled("a")]] == [envelope.all(stamps.Handled) for envelope in after]
    with pytest.raises(HandlerFailed):
        MessageBus("b", [HandleMessage(noting([], "-a"), "b"), last]).dispatch(Task("x"))
    assert 1 == len(after)


def test_an_async_handler_may_defer() -> None:
    """What an async handler defers waits for the message that it handles, as with a plain one."""
    log: list[str] = []
    handlers = Handlers()
    bus = MessageBus("b", [BeginMessage("b"), HandleMessage(handlers, "b")])

    @handlers.handler
    async def on_task(task: Task, envelope: Envelope) -> None:
        bus.dispatch(Job("later"), stamps.AfterCurrent())
        log.append(f"task {id_of(envelope)}")

    @handlers.handler
    def on_job(job: Job, envelope: Envelope) -> None:
        log.append(f"job {causation_of(envelope)}")

    envelope = bus.dispatch(Task("x"))
    assert [f"task {id_of(envelope)}", f"job {id_of(envelope)}"] == log


def test_an_async_handler_that_waits_for_another_fails_with_the_remedy() -> None:
    """Instead of waiting for itself for ever, the inner dispatch fails, and the error says what to write."""
    handlers = Handlers()
    bus = MessageBus("b", [HandleMessage(handlers, "b")])

    @handlers.handler(name="outer")
    async def outer(task: Task) -> None:
        bus.dispatch(Job("inner"))

    @handlers.handler(name="inner")
    async def inner(job: Job) -> None: ...

    with pytest.raises(HandlerFailed) as caught:
        bus.dispatch(Task("x"))
    nested = caught.value.errors["outer"]
    assert isinstance(nested, HandlerFailed)
    assert "Use `await app.dispatch_async(...)` there." in str(nested.errors["inner"])
