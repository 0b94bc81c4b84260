"""A queue that is shared with a real Symfony Messenger application: each side handles what the other has sent."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from postbus import Backoff, Envelope, Limits, Postbus, Stamp, failures, stamps
from tests.brokers.server import wait_until
from tests.symfony.conftest import Shared, Symfony

pytestmark = [pytest.mark.slow, pytest.mark.once]

BOOM = "it is a bad day"


@dataclass(frozen=True)
class Sender:
    full_name: str


class Priority(enum.Enum):
    NORMAL = "normal"
    URGENT = "urgent"


@dataclass(frozen=True)
class SmsNotification:
    phone_number: str
    text: str = ""
    meta_data: dict[str, str] = field(default_factory=dict)
    sent_by: Sender | None = None
    send_at: datetime | None = None
    priority: Priority = Priority.NORMAL
    price: float = 0.0


@dataclass(frozen=True)
class CacheCleared:
    pass


class Shop(Stamp, rename="camel"):
    """A stamp that the Symfony application has too."""

    wire_name = "App\\Stamp\\Shop"
    shop_name: str


class Origin(Stamp):
    """A stamp that only this side has."""

    wire_name = "tests.symfony.origin"
    name: str


SMS = SmsNotification(
    "+49 30 123",
    "Grüße/x",
    {"some_key": "some_value"},
    Sender("Ann"),
    datetime(2026, 11, 24, 12, tzinfo=UTC),
    Priority.URGENT,
    2.0,
)


class Application:
    """One of ours, whose handler notes what it gets, and fails if it is told to."""

    def __init__(self, shared: Shared, *, max_retries: int = 0) -> None:
        retry = {"max_retries": max_retries, "delay": 0}
        self.app = Postbus(
            transports={
                name: {"dsn": dsn, "serializer": "symfony-camel-case", "retry": retry}
                for name, dsn in shared.here.items()
            },
            routing={"*": "async"},
            failure_transport="failed",
        )
        self.handled: list[Envelope] = []
        self.fails = False
        for kind in (SmsNotification, CacheCleared):
            self.app.message(f"App\\Message\\{kind.__name__}")(kind)
        self.app.handler(self.note)

    def note(self, message: SmsNotification | CacheCleared, envelope: Envelope) -> None:
        """Handle both messages."""
        self.handled.append(envelope)
        if self.fails:
            raise ValueError(BOOM)

    def consume(self, transport: str, count: int = 1, *, fails: bool = False) -> list[Envelope]:
        """Let a worker take so many messages, and return them."""
        self.fails, self.handled = fails, []
        self.app.worker(transport, limits=Limits(messages=count, time=60)).run()
        assert count == len(self.handled)
        return self.handled


@pytest.fixture
def here(shared: Shared) -> Iterator[Application]:
    """Give an application of ours that buries at once."""
    application = Application(shared)
    with closing(application.app):
        yield application


@pytest.fixture
def patient(shared: Shared) -> Iterator[Application]:
    """Give an application of ours that tries again three times."""
    application = Application(shared, max_retries=3)
    with closing(application.app):
        yield application


def messages(envelopes: list[Envelope]) -> list[Any]:
    return [envelope.message for envelope in envelopes]


def test_postbus_handles_what_symfony_has_sent(symfony: Symfony, here: Application) -> None:
    """With nested objects, maps, maps that are empty, and no properties at all."""
    symfony.dispatch(
        {
            "class": "SmsNotification",
            "properties": {
                "phoneNumber": "+49 30 123",
                "text": "Grüße/x",
                "metaData": {"some_key": "some_value"},
                "sentBy": {"fullName": "Ann"},
                "sendAt": "2026-11-24T13:00:00+01:00",
                "priority": "urgent",
                "price": 2.0,
            },
        },
        {"class": "SmsNotification", "properties": {"phoneNumber": "1"}},
        {"class": "CacheCleared"},
    )
    envelopes = here.consume("async", 3)

    assert [SMS, SmsNotification("1"), CacheCleared()] == messages(envelopes)
    assert Shop("acme") == envelopes[0].last(Shop)


def test_symfony_handles_what_postbus_has_sent(symfony: Symfony, here: Application) -> None:
    """Its serializer takes the message and every stamp; the message has no bus, so the default one takes it."""
    sent = here.app.dispatch(SMS, Shop("acme"), Origin("here"))
    here.app.dispatch_many([SmsNotification("1"), CacheCleared()])
    said = symfony.consume("async", 3)

    assert ["received", "handled"] * 3 == [line.what for line in said]
    send_at = datetime.fromisoformat(said[0].message.pop("sendAt"))  # Symfony 6.4 writes a Z, 5.4 +00:00.
    assert SMS.send_at == send_at
    assert {
        "phoneNumber": "+49 30 123",
        "text": "Grüße/x",
        "metaData": {"some_key": "some_value"},
        "sentBy": {"fullName": "Ann"},
        "priority": "urgent",
        "price": 2,
    } == said[0].message
    assert '[{"shopName":"acme"}]' == said[0].headers["X-Message-Stamp-App\\Stamp\\Shop"]
    id = sent.last(stamps.MessageId)
    assert id is not None
    assert [{"context": {"postbus_message_id": id.id}}] == said[0].stamps("SerializerStamp")
    assert ("1", None) == (said[2].message["phoneNumber"], said[2].message["sentBy"])
    assert not said[4].message  # Which 5.4 writes as an empty list, and 6.4 as an empty map.


def test_postbus_understands_a_retry_of_symfonys(symfony: Symfony, here: Application) -> None:
    """How often it was tried, and why it failed there."""
    symfony.dispatch({"class": "SmsNotification", "properties": {"phoneNumber": "1"}})
    symfony.consume("async", fail=True, max_retries=1)
    [envelope] = here.consume("async")

    [error] = envelope.all(stamps.ErrorDetails)
    [retried] = envelope.all(stamps.Retried)
    assert SmsNotification("1") == envelope.message
    assert 1 == retried.count
    assert ("RuntimeException", "the gateway is down") == (error.type, error.message)
    assert retried.at == error.at
    assert error.traceback is not None
    assert "HandleMessageMiddleware" in error.traceback


def test_symfony_understands_a_retry_of_postbus(symfony: Symfony, patient: Application) -> None:
    """How often it was tried, and why it failed here; its own stamps come back to it as they were."""
    symfony.dispatch({"class": "SmsNotification", "properties": {"phoneNumber": "1"}})
    patient.consume("async", fails=True)
    received, handled = symfony.consume("async")

    [error] = received.stamps("ErrorDetailsStamp")
    assert "handled" == handled.what
    assert [1] == [stamp["retryCount"] for stamp in received.stamps("RedeliveryStamp")]
    assert ("builtins.ValueError", BOOM) == (error["exceptionClass"], error["exceptionMessage"])
    assert [{"busName": "messenger.bus.default"}] == received.stamps("BusNameStamp")
    assert [{"groups": ["sms"]}] == received.stamps("ValidationStamp")
    assert '[{"shopName":"acme"}]' == received.headers["X-Message-Stamp-App\\Stamp\\Shop"]


def test_a_message_may_fail_on_both_sides(symfony: Symfony, patient: Application) -> None:
    """It is one and the same message all the time, and its tries are counted together."""
    sent = patient.app.dispatch(SMS, Shop("acme"))
    symfony.consume("async", fail=True, max_retries=3)
    patient.consume("async", fails=True)
    symfony.consume("async", fail=True, max_retries=3)
    [envelope] = patient.consume("async")

    retried = envelope.last(stamps.Retried)
    assert SMS == envelope.message
    assert sent.last(stamps.MessageId) == envelope.last(stamps.MessageId)
    assert Shop("acme") == envelope.last(Shop)
    assert retried is not None
    assert 3 == retried.count
    there, here, again = envelope.all(stamps.ErrorDetails)
    assert ["RuntimeException", "builtins.ValueError", "RuntimeException"] == [there.type, here.type, again.type]
    assert there.at <= here.at


def test_postbus_handles_what_symfony_has_buried(symfony: Symfony, here: Application) -> None:
    """It knows where the message failed, and begins to count anew."""
    symfony.dispatch({"class": "SmsNotification", "properties": {"phoneNumber": "1"}})
    symfony.consume("async", fail=True)
    [envelope] = here.consume("failed")

    retried = envelope.last(stamps.Retried)
    assert SmsNotification("1") == envelope.message
    assert stamps.Buried("async") == envelope.last(stamps.Buried)
    assert ["the gateway is down"] == [error.message for error in envelope.all(stamps.ErrorDetails)]
    assert retried is not None
    assert 0 == retried.count


@pytest.mark.parametrize("error_handler", [True, False])
def test_symfony_handles_what_postbus_has_buried(symfony: Symfony, here: Application, error_handler: bool) -> None:
    """Whether it has Symfony's error handler, without which it cannot read the shape of an exception, or not."""
    here.app.dispatch(SMS)
    here.consume("async", fails=True)
    received, handled = symfony.consume("failed", error_handler=error_handler)

    [error] = received.stamps("ErrorDetailsStamp")
    assert "handled" == handled.what
    assert "Ann" == handled.message["sentBy"]["fullName"]
    assert [{"originalReceiverName": "async"}] == received.stamps("SentToFailureTransportStamp")
    assert ("builtins.ValueError", BOOM, 0) == (
        error["exceptionClass"],
        error["exceptionMessage"],
        error["exceptionCode"],
    )


def test_what_nobody_here_can_read_is_buried_for_symfony(
    symfony: Symfony, here: Application, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message whose class is not registered here waits in the failure transport, as it came."""
    monkeypatch.setattr(failures, "UNKNOWN_TYPE", Backoff(max_retries=0))  # The next worker knows it no better.
    symfony.dispatch({"class": "SmsNotification", "properties": {"phoneNumber": "1"}})
    app = Postbus(
        transports={name: {"dsn": dsn, "serializer": "symfony"} for name, dsn in shared.here.items()},
        failure_transport="failed",
    )
    with closing(app):
        app.worker("async", limits=Limits(messages=1, time=60)).run()
    received, handled = symfony.consume("failed")

    assert "handled" == handled.what
    assert "1" == received.message["phoneNumber"]
    [error] = received.stamps("ErrorDetailsStamp")
    assert "no message is registered as" in error["exceptionMessage"]


def test_a_delay_of_symfonys_is_kept(symfony: Symfony, here: Application) -> None:
    """What it has sent for later does not wait to be handled now."""
    symfony.dispatch({"class": "CacheCleared", "delay": 3_600_000}, {"class": "CacheCleared"})
    transport: Any = here.app.transport("async")

    wait_until(lambda: transport.connection.count().waiting == 1, "one of the two messages waits")
    assert [CacheCleared()] == messages(here.consume("async"))
    assert 0 == transport.connection.count().waiting
