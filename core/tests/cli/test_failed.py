"""``postbus failed``: nothing is lost, whatever is done with what failed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from postbus import Envelope, Postbus, stamps
from postbus.cli.failed_messages import PAGE, FailedMessages
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.transport import Outgoing, QueueTransport

if TYPE_CHECKING:
    from conftest import Shop

SECOND = """
    app = Postbus(
        transports={
            "orders": {"dsn": "in-memory://%(id)s-orders", "failure_transport": "failed"},
            "mails": {"dsn": "in-memory://%(id)s-mails", "failure_transport": "other"},
            "failed": "in-memory://%(id)s-failed",
            "other": "in-memory://%(id)s-other",
        },
    )
"""


@dataclass(frozen=True)
class Refund:
    order_id: int


def receive_foreign(shop: Shop, body: bytes, headers: dict[str, str]) -> None:
    """Let bytes arrive that somebody else has sent, and a worker come across them."""
    transport = shop.app.transport("orders")
    assert isinstance(transport, QueueTransport)
    transport.connection.publish([Outgoing(body, headers)])
    shop.run("consume", "orders", "--limit", "1")


def errors_of(shop: Shop, id: str) -> list[str]:
    return [error["message"] for error in shop.json("failed", "show", id)["errors"]]


# show


def test_the_list(shop: Shop) -> None:
    """Each failed message is a row with its id, class, time and error."""
    shop.bury(13, 101)
    lines = shop.run("failed", "show").stdout.splitlines()

    assert ["ID", "CLASS", "FAILED", "AT", "ERROR"] == lines[0].split()
    assert ["1", "shop.OrderPlaced"] == lines[1].split()[:2]
    assert lines[1].endswith("ValueError: order 13 is unlucky")
    assert 3 == len(lines)


def test_the_list_as_json(shop: Shop) -> None:
    """The same for programs, and where each came from."""
    shop.bury(13)
    [line] = shop.json("failed", "show")

    assert ("1", "shop.OrderPlaced", "orders") == (line["id"], line["class"], line["transport"])
    assert line["message_id"]
    assert line["failed_at"]


def test_an_empty_list(shop: Shop) -> None:
    """Nothing failed is nothing wrong: exit code 0, and for programs an empty list."""
    assert 0 == shop.run("failed", "show").exit_code
    assert [] == shop.json("failed", "show")


def test_filters_apply_before_the_maximum(shop: Shop) -> None:
    """``--max`` counts what is shown, not what was looked at."""
    shop.bury(*range(101, 106))
    shop.append("""
        @app.handler
        def fail(mail: MailSent) -> None:
            raise ValueError(mail.to)
        app.dispatch(MailSent("a"))
    """)
    shop.run("consume", "mails", "--limit", "1")

    assert ["6"] == [line["id"] for line in shop.json("failed", "show", "--class", "MailSent", "--max", "1")]
    assert "These are the first 2; --max shows more." in shop.run("failed", "show", "--max", "2").stderr
    assert "--max" not in shop.run("failed", "show", "--max", "6").stderr


@pytest.mark.parametrize("name", ["shop.OrderPlaced", "OrderPlaced", "order.placed"])
def test_the_class_by_any_name(shop: Shop, name: str) -> None:
    """``--class`` takes the whole name, its last part, and the name under which the message travels."""
    shop.bury(13)

    assert 1 == len(shop.json("failed", "show", "--class", name))
    assert 0 == len(shop.json("failed", "show", "--class", "MailSent"))


@pytest.mark.parametrize(
    ("option", "time", "found"),
    [("--since", "1h", 1), ("--until", "1h", 0), ("--since", "2999-01-01", 0), ("--until", "2999-01-01T00:00Z", 1)],
)
def test_the_time_of_the_last_failure(shop: Shop, option: str, time: str, found: int) -> None:
    """``--since`` and ``--until`` compare the time of the last failure with a date, or a time ago."""
    shop.bury(13)

    assert found == len(shop.json("failed", "show", option, time))


def test_how_many_of_each_class(shop: Shop) -> None:
    """``--stats`` counts all messages by class, not just a page of them."""
    shop.bury(*range(200, 200 + PAGE + 5))
    [line] = shop.json("failed", "show", "--stats", "--max", "1")

    assert ("shop.OrderPlaced", PAGE + 5) == (line["class"], line["count"])


def test_all_about_one(shop: Shop) -> None:
    """With an id: class, ids, origin, times, every error, and the message."""
    shop.bury(13)
    shop.run("failed", "retry", "1")
    details = shop.json("failed", "show", "2")

    assert {"order_id": 13} == details["message"]
    assert "orders" == details["transport"]
    assert 2 == details["attempts"] == len(details["errors"])
    assert "shop.send_receipt" == details["errors"][0]["handler"]
    assert "traceback" not in details["errors"][0]
    assert "Traceback" in shop.json("failed", "show", "2", "-v")["errors"][0]["traceback"]
    output = shop.run("failed", "show", "2").stdout
    assert "ValueError: order 13 is unlucky (in shop.send_receipt)" in output
    assert '"order_id": 13' in output


def test_one_that_is_not_there(shop: Shop) -> None:
    """An id that nothing has is exit code 1."""
    result = shop.run("failed", "show", "77")

    assert 1 == result.exit_code
    assert "There is no message '77' in 'failed'." in result.stderr


# which failure transport


def test_without_a_failure_transport(shop: Shop) -> None:
    """An app that keeps nothing is told how to."""
    shop.append('app = Postbus(transports={"a": "in-memory://"})')
    result = shop.run("failed", "show")

    assert 2 == result.exit_code
    assert "No failure transport is configured" in result.stderr


def test_with_several_and_no_global_one(shop: Shop) -> None:
    """Which one is meant must be said, and may be."""
    shop.append(SECOND % {"id": shop.id})
    result = shop.run("failed", "show")

    assert 2 == result.exit_code
    assert "There is no global failure transport. Add --transport with one of: failed, other." in result.stderr
    assert [] == shop.json("failed", "show", "--transport", "other")


def test_a_transport_that_keeps_no_failures(shop: Shop) -> None:
    """An ordinary transport is refused, and so is an unknown one."""
    result = shop.run("failed", "show", "--transport", "orders")

    assert 2 == result.exit_code
    assert "There is no failure transport 'orders'. Failure transports: failed." in result.stderr


def test_a_failure_transport_that_cannot_show_messages(shop: Shop) -> None:
    """One without that ability is told so, and what to do instead."""
    shop.append('app = Postbus(transports={"failed": "sync://"}, failure_transport="failed")')
    result = shop.run("failed", "show")

    assert 2 == result.exit_code
    assert "Transport 'failed' cannot show or remove single messages. To retry them all" in result.stderr


# retry


def test_a_retry_that_succeeds(shop: Shop) -> None:
    """A message that is handled now leaves the failure transport."""
    shop.bury(13)
    shop.write("", "mended")
    result = shop.run("failed", "retry", "1")

    assert 0 == result.exit_code
    assert "1 shop.OrderPlaced handled\n" == result.stdout
    assert [] == shop.ids()


def test_a_retry_that_fails(shop: Shop) -> None:
    """A message that fails again stays, with the new error after the old one, and the exit code is 1."""
    shop.bury(13)
    result = shop.run("failed", "retry", "1")

    assert 1 == result.exit_code
    assert "1 shop.OrderPlaced failed again, kept as 2: ValueError: order 13 is unlucky\n" == result.stdout
    assert ["2"] == shop.ids()
    assert 2 == len(errors_of(shop, "2"))
    assert "orders" == shop.json("failed", "show", "2")["transport"]


def test_a_retry_runs_only_the_handlers_that_failed(shop: Shop) -> None:
    """A handler that has succeeded before is not run again."""
    shop.append("""
        @app.handler
        def count(order: OrderPlaced) -> None:
            with open("counted", "a") as file:
                file.write("x")
    """)
    shop.bury(13)
    shop.run("failed", "retry", "1")
    shop.write("", "mended")
    shop.run("failed", "retry", "2")

    assert [] == shop.ids()
    assert "x" == (shop.folder / "counted").read_text()


def test_one_failure_does_not_stop_the_rest(shop: Shop) -> None:
    """Each id has its result, also one that does not exist; the exit code tells that there was a bad one."""
    shop.bury(13, 101)
    shop.append("""
        @app.handler
        def mend(order: OrderPlaced) -> None:
            Path("mended").touch()
    """)
    result = shop.run("failed", "retry", "1", "77", "2", "--format", "json")

    assert 1 == result.exit_code
    assert [("1", "failed"), ("77", "not found"), ("2", "handled")] == [
        (line["id"], line["result"]) for line in json.loads(result.stdout)
    ]
    assert ["3"] == shop.ids()


def test_retrying_all_ends(shop: Shop) -> None:
    """``--all`` tries each message once, over more than a page of them, though those that fail again come behind."""
    shop.bury(*range(200, 200 + PAGE + 5))
    result = shop.run("failed", "retry", "--all", "--format", "json")

    assert 1 == result.exit_code
    assert ["failed"] * (PAGE + 5) == [line["result"] for line in json.loads(result.stdout)]
    assert PAGE + 5 == shop.json("failed", "show", "--stats")[0]["count"]


def test_retrying_some(shop: Shop) -> None:
    """``--all`` with filters retries what they admit."""
    shop.bury(13)
    shop.write("", "mended")

    assert [] == shop.json("failed", "retry", "--all", "--class", "MailSent")
    assert [] == shop.json("failed", "retry", "--all", "--until", "1h")
    assert ["handled"] == [line["result"] for line in shop.json("failed", "retry", "--force", "--since", "1h")]


def test_a_recoverable_error_keeps_the_message_too(shop: Shop) -> None:
    """Also what asks to be tried again stays in the failure transport, once."""
    shop.bury(13)
    shop.append("""
        from postbus import Recoverable

        @app.handler
        def wait(order: OrderPlaced) -> None:
            raise Recoverable("not yet", delay=5)
    """)
    result = shop.run("failed", "retry", "1")

    assert 1 == result.exit_code
    assert ["2"] == shop.ids()
    assert ["order 13 is unlucky", "order 13 is unlucky", "not yet"] == errors_of(shop, "2")


def test_the_copy_is_stored_before_the_original_goes(shop: Shop) -> None:
    """If the failure transport does not take the copy, the original is still there, and the rest is tried."""
    shop.bury(13, 101)
    shop.append("""
        from postbus.errors import TransportError

        failed = app.transport("failed")
        def refuse(envelopes):
            raise TransportError("The disk is full.")
        failed.send = refuse
    """)
    result = shop.run("failed", "retry", "1", "2", "--format", "json")

    assert 1 == result.exit_code
    assert ["failed", "failed"] == [line["result"] for line in json.loads(result.stdout)]
    assert "and then: The disk is full." in json.loads(result.stdout)[0]["error"]
    assert ["1", "2"] == shop.ids()


def test_observers_are_told_of_a_retry(shop: Shop) -> None:
    """What watches a worker sees the same events here."""
    shop.bury(13)
    shop.append("""
        @app.observe
        def tell(event) -> None:
            with open("events", "a") as file:
                file.write(type(event).__name__ + " ")
    """)
    shop.run("failed", "retry", "1")
    shop.write("", "mended")
    shop.run("failed", "retry", "2")

    events = (shop.folder / "events").read_text().split()
    assert ["MessageReceived", "MessageFailed"] == events[:2]
    assert "MessageBuried" in events
    assert ["MessageReceived", "MessageHandled"] == events[-2:]


def test_an_interrupted_retry_reports_what_was_done(shop: Shop) -> None:
    """Ctrl+C keeps the message in hand, and what came before is still told."""
    shop.bury(13, 101, 102)
    shop.append("""
        @app.handler
        def interrupt(order: OrderPlaced) -> None:
            if order.order_id == 101:
                raise KeyboardInterrupt
    """)
    result = shop.run("failed", "retry", "--all", "--format", "json")

    assert 130 == result.exit_code
    assert ["1"] == [line["id"] for line in json.loads(result.stdout)]
    assert ["2", "3", "4"] == shop.ids()


@pytest.mark.parametrize("arguments", [[], ["--class", "OrderPlaced"], ["1", "--all"], ["1", "--since", "1h"]])
def test_what_to_retry_must_be_clear(shop: Shop, arguments: list[str]) -> None:
    """Without ids and without a terminal, ``--all`` must be said; ids and a selection exclude each other."""
    shop.bury(13)

    assert 2 == shop.run("failed", "retry", *arguments).exit_code
    assert ["1"] == shop.ids()


# what nobody can read


def test_what_cannot_be_read_is_shown(shop: Shop) -> None:
    """Of an undecodable message there is the reason, the headers and the body."""
    receive_foreign(shop, b'{"a": 1}', {"type": "gone.Thing", "X-Else": "y"})
    receive_foreign(shop, b"\xff\x00", {"type": "gone.Thing"})

    assert ["gone.Thing", "gone.Thing"] == [line["class"] for line in shop.json("failed", "show", "--class", "Thing")]
    text, binary = (shop.json("failed", "show", id)["unreadable"] for id in ("1", "2"))
    assert "no message is registered as 'gone.Thing'" == text["reason"]
    assert ('{"a": 1}', "y") == (text["body"], text["headers"]["X-Else"])
    assert (None, "/wA=") == (binary["body"], binary["body_base64"])
    assert "Unreadable: no message is registered as 'gone.Thing'" in shop.run("failed", "show", "1").stdout


def test_what_cannot_be_read_is_kept(shop: Shop) -> None:
    """A retry of an undecodable message says so and leaves it exactly as it is."""
    receive_foreign(shop, b"{}", {"type": "gone.Thing"})
    result = shop.run("failed", "retry", "1")

    assert 1 == result.exit_code
    assert "1 gone.Thing still cannot be read, kept: no message is registered as 'gone.Thing'\n" == result.stdout
    assert ["1"] == shop.ids()


def test_what_can_be_read_by_now_is_handled(shop: Shop) -> None:
    """Once there is code that understands the message, a retry handles it."""
    receive_foreign(shop, b'{"a": 1}', {"type": "gone.Thing"})
    shop.append("""
        @app.message("gone.Thing")
        @dataclass(frozen=True)
        class Thing:
            a: int

        @app.handler
        def use(thing: Thing) -> None:
            Path("used").write_text(str(thing.a))
    """)

    assert 0 == shop.run("failed", "retry", "1").exit_code
    assert "1" == (shop.folder / "used").read_text()
    assert [] == shop.ids()


READER = """
    import json
    from postbus import Envelope
    from postbus.serialization import Encoded, Undecodable

    class Reader:
        "Reads what a foreign system writes: one number, as text."
        def encode(self, envelope): return Encoded(envelope.message.body, dict(envelope.message.headers))
        def decode(self, body, headers):
            if headers.get("version") != "{known}":
                return Envelope(Undecodable(body, headers, "unknown version"))
            return Envelope(OrderPlaced(int(body)))

    app = Postbus(
        transports={{
            "orders": {{"dsn": "in-memory://{id}-orders", "serializer": Reader()}},
            "failed": "in-memory://{id}-failed",
        }},
        failure_transport="failed",
        retry={{"max_retries": 0}},
    )
    app.message("order.placed")(OrderPlaced)
    app.handler(send_receipt)
"""


def test_the_serializer_of_its_origin_reads_it(shop: Shop) -> None:
    """What the failure transport itself cannot read is read as the transport that it came from reads it."""
    shop.append(READER.format(known="1", id=shop.id))
    receive_foreign(shop, b"13", {"version": "2"})
    assert "unreadable" in shop.json("failed", "show", "1")

    shop.append(READER.format(known="2", id=shop.id))
    details: dict[str, Any] = shop.json("failed", "show", "1")
    assert ({"order_id": 13}, "orders") == (details["message"], details["transport"])
    assert "failed again" in shop.run("failed", "retry", "1").stdout
    assert ["unknown version", "order 13 is unlucky"] == errors_of(shop, "2")
    shop.write("", "mended")
    assert 0 == shop.run("failed", "retry", "2").exit_code
    assert [] == shop.ids()


def test_what_its_origin_reads_has_every_stamp_once() -> None:
    """A message that only its origin can read comes with each of its stamps, none of them twice."""
    types = TypeRegistry()
    types.register(Refund, "refund")
    serializer = JsonSerializer(types)
    app = Postbus(transports={"orders": {"dsn": "in-memory://", "serializer": serializer}, "failed": "in-memory://"})
    envelope = Envelope.wrap(Refund(13), stamps.MessageId("1"), stamps.Buried("orders"))
    failed: Any = app.transport("failed")
    failed.connection.publish([Outgoing(*serializer.encode(envelope))])

    message = FailedMessages(app, "failed").find("1")
    assert message is not None
    assert Refund(13) == message.envelope.message
    assert [[stamps.MessageId("1")], [stamps.Buried("orders")]] == [
        message.envelope.all(kind) for kind in (stamps.MessageId, stamps.Buried)
    ]


def test_a_message_that_did_not_fail(shop: Shop) -> None:
    """What somebody sent to the failure transport by hand is listed, handled, and in no span of time."""
    module = shop.load()
    module.app.dispatch(module.OrderPlaced(1), stamps.TransportNames(["failed"]))

    [line] = shop.json("failed", "show")
    assert (None, None, None) == (line["transport"], line["failed_at"], line["error"])
    assert [] == shop.json("failed", "show", "--since", "1h")
    assert "it does not look as if it had failed" in shop.run("failed", "show", "1").stdout
    assert 0 == shop.run("failed", "retry", "1").exit_code


# remove


def test_removing_by_id(shop: Shop) -> None:
    """Each id is removed; one that is not there is told, and the exit code is 1."""
    shop.bury(13, 101)
    result = shop.run("failed", "remove", "1", "77", "--force")

    assert 1 == result.exit_code
    assert "Removed 1 message from 'failed'.\n" == result.stdout
    assert "There is no message '77' in 'failed'." in result.stderr
    assert ["2"] == shop.ids()


def test_removing_all_of_a_kind(shop: Shop) -> None:
    """Filters choose, over more than a page of messages."""
    shop.bury(*range(200, 200 + PAGE + 5))

    assert {"removed": 0, "not_found": []} == shop.json("failed", "remove", "--class", "MailSent", "--force")
    assert {"removed": PAGE + 5, "not_found": []} == shop.json("failed", "remove", "--all", "--since", "1h", "--force")
    assert [] == shop.ids()


@pytest.mark.parametrize("arguments", [["1"], ["--all"], ["--force"], ["1", "--all", "--force"]])
def test_nothing_is_removed_unasked(shop: Shop, arguments: list[str]) -> None:
    """What is meant must be named, and confirmed or forced."""
    shop.bury(13)

    assert 2 == shop.run("failed", "remove", *arguments).exit_code
    assert ["1"] == shop.ids()
