"""Observers: who is told of what happened, in which order, and that they can change nothing."""

from __future__ import annotations

from typing import Any

import pytest

from postbus.envelope import Envelope
from postbus.events import (
    Event,
    MessageBuried,
    MessageDropped,
    MessageFailed,
    MessageHandled,
    MessageReceived,
    MessageRetried,
    MessageRetriedAtOnce,
    MessageSent,
    Observers,
    TransportLost,
    TransportRestored,
    WorkerStarted,
    WorkerStopped,
)

ENVELOPE = Envelope.wrap("a message")
ERROR = ValueError("no")
EVENTS = [
    MessageSent(ENVELOPE, "t"),
    MessageReceived(ENVELOPE, "t"),
    MessageHandled(ENVELOPE, "t", 0.5),
    MessageFailed(ENVELOPE, "t", ERROR),
    MessageRetriedAtOnce(ENVELOPE, "t", ERROR),
    MessageRetried(ENVELOPE, "t", ERROR, 1.0),
    MessageBuried(ENVELOPE, "t", ERROR, "failed"),
    MessageDropped(ENVELOPE, "t", ERROR),
    TransportLost("t", ERROR),
    TransportRestored("t"),
    WorkerStarted(("t",)),
    WorkerStopped("asked to", 3, 1),
]
RESTORED = TransportRestored("t")


class Failing:
    """An observer that always raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return "the failing one"

    def __call__(self, event: Event) -> None:
        raise self.error


def test_observers_are_told_in_the_order_in_which_they_were_added() -> None:
    """Each is told of every event, one after the other."""
    told: list[tuple[str, Event]] = []
    observers = Observers()
    for name in "abc":
        observers.add(lambda event, name=name: told.append((name, event)))
    observers.notify(EVENTS[0])
    observers.notify(EVENTS[1])
    assert [(name, event) for event in EVENTS[:2] for name in "abc"] == told


def test_one_that_raises_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The observers after it are told all the same; what it raised is logged with its traceback, no more."""
    told: list[Event] = []
    observers = Observers()
    for observer in (told.append, Failing(ZeroDivisionError("mine")), told.append):
        observers.add(observer)
    observers.notify(RESTORED)
    assert [RESTORED, RESTORED] == told
    (record,) = caplog.records
    assert ("postbus", "ERROR") == (record.name, record.levelname)
    assert "Observer the failing one failed on TransportRestored; the message goes on." == record.getMessage()
    assert record.exc_info is not None
    assert "mine" == str(record.exc_info[1])


def test_an_interrupt_in_an_observer_passes() -> None:
    """What is not an `Exception`, such as Ctrl-C, is not swallowed."""
    observers = Observers()
    observers.add(Failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        observers.notify(RESTORED)


def test_observers_are_true_when_there_are_any() -> None:
    """Who makes events for nobody can ask first."""
    observers = Observers()
    assert not observers
    observers.add(lambda event: None)
    assert observers


def test_nobody_to_tell_is_fine() -> None:
    """An event without observers is no error."""
    Observers().notify(RESTORED)


def test_an_observer_is_told_only_of_what_happens_from_then_on() -> None:
    """What happened before it was added is not told again."""
    told: list[Event] = []
    observers = Observers()
    observers.notify(EVENTS[0])
    observers.add(told.append)
    observers.notify(EVENTS[1])
    assert [EVENTS[1]] == told


def test_an_observer_added_twice_is_told_twice() -> None:
    """Nothing is silently left out."""
    told: list[Event] = []
    observers = Observers()
    observers.add(told.append)
    observers.add(told.append)
    observers.notify(RESTORED)
    assert [RESTORED, RESTORED] == told


def test_an_observer_may_dispatch_and_be_told_of_that() -> None:
    """An observer that makes another event happen does not break the first."""
    told: list[Event] = []
    observers = Observers()

    def answer(event: Event) -> None:
        if event == RESTORED:
            observers.notify(EVENTS[0])

    observers.add(answer)
    observers.add(told.append)
    observers.notify(RESTORED)
    assert [EVENTS[0], RESTORED] == told


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_cannot_be_changed(event: Any) -> None:
    """An observer cannot give those after it another event than it got."""
    for name in (*event.__struct_fields__, "new"):
        with pytest.raises(AttributeError):
            setattr(event, name, "x")
    assert event == type(event)(*(getattr(event, name) for name in event.__struct_fields__))
