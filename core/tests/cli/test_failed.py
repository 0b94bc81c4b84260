"""``postbus failed``: nothing is lost, whatever is done with what failed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from postbus import Envelope, Postbus, stamps
from postbus.cli.failed import CHUNK
from postbus.cli.failed_messages import PAGE, FailedMessages, Ids
from postbus.cli.failed_output import BLOCK
from postbus.cli.failed_retry import Retrying
from postbus.queue_transport import QueueTransport
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.transport import Outgoing

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
    """Let bytes arrive that somebody else has sent, and a worker come across them, who is not the first to do so."""
    transport = shop.app.transport("orders")
    assert isinstance(transport, QueueTransport)
    retried = '[{"count": 3, "at": "2026-11-30T12:00:00Z"}]'
    transport.connection.publish([Outgoing(body, headers | {"X-Message-Stamp-retried": retried})])
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


BAD = """
    @app.handler
    def fail(order: OrderPlaced) -> None:
        if order.order_id > 200:
            raise TimeoutError("too late")
"""


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ValueError", ["1", "2"]),
        ("builtins.ValueError", ["1", "2"]),
        ("TimeoutError", ["2"]),
        ("Timeout", []),
        ("KeyError", []),
    ],
)
def test_the_error_by_its_name(shop: Shop, name: str, found: list[str]) -> None:
    """``--error`` takes the whole name of an error's class or its last part, of any handler that failed."""
    shop.append(BAD)
    shop.bury(101, 201)

    assert found == [line["id"] for line in shop.json("failed", "show", "--error", name)]


def test_the_error_is_what_each_handler_failed_with_last(shop: Shop) -> None:
    """An error that a handler got over does not count."""
    shop.append(BAD)
    shop.bury(201)
    shop.write("", "mended")
    shop.run("failed", "retry", "1")

    assert [] == shop.json("failed", "show", "--error", "ValueError")
    assert ["2"] == [line["id"] for line in shop.json("failed", "show", "--error", "TimeoutError")]


def test_a_list_in_pieces(shop: Shop) -> None:
    """``--after`` goes on behind an id, and the end of a piece says how; with filters too."""
    shop.bury(*range(200, 200 + BLOCK + 5))
    first = shop.run("failed", "show", "--max", "2")
    rest = shop.run("failed", "show", "--max", str(BLOCK + 2), "--after", "2", "--error", "ValueError")

    assert "These are the first 2; --max shows more. Those behind them: --after 2." in first.stderr
    assert [str(n) for n in range(3, BLOCK + 5)] == [line.split()[0] for line in rest.stdout.splitlines()[1:]]
    assert f"These are the next {BLOCK + 2}; --max shows more. Those behind them: --after {BLOCK + 4}." in rest.stderr
    assert [str(BLOCK + 5)] == [line["id"] for line in shop.json("failed", "show", "--after", str(BLOCK + 4))]
    assert "1" == shop.json("failed", "show", "--after", "nonsense")[0]["id"]


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


def test_nothing_has_failed(shop: Shop) -> None:
    """Who asked for no message in particular is not told that this one is missing."""
    assert "There is no message in 'failed'.\n" == shop.run("failed", "show").stderr
    assert "There is no such message in 'failed'.\n" == shop.run("failed", "show", "--since", "2h").stderr


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


def test_an_interrupted_retry_settles_what_was_handled(shop: Shop) -> None:
    """Ctrl+C comes between two messages of a batch: those before it are gone, and are not handled again."""
    shop.bury(101, 102, 103)
    shop.write("", "mended")
    shop.append("""
        @app.handler(priority=-1)
        def interrupt(order: OrderPlaced) -> None:
            if order.order_id == 103:
                raise KeyboardInterrupt
    """)
    result = shop.run("failed", "retry", "--all")

    assert 130 == result.exit_code
    assert "1 shop.OrderPlaced handled\n2 shop.OrderPlaced handled\n" == result.stdout
    assert "2 messages: 2 handled." in result.stderr
    assert ["3"] == shop.ids()


COUNTING = """
    transport, published, removed = app.transport("failed").connection, [], []
    publish, remove = transport.publish, transport.remove
    def count_published(messages):
        published.append(len(messages))
        return publish(messages)
    def count_removed(ids):
        removed.append(len(ids))
        return remove(ids)
    transport.publish, transport.remove = count_published, count_removed
"""


def test_what_fails_again_is_stored_in_batches(shop: Shop) -> None:
    """Many that fail quickly are stored together, then removed together."""
    shop.bury(*range(200, 450))
    shop.append(COUNTING)
    shop.append("from postbus.cli.failed_retry import Retrying; Retrying.SETTLE_AFTER = 3600")
    result = shop.run("failed", "retry", "--all")

    module = sys.modules["shop"]
    assert [100, 100, 50] == module.published == module.removed
    assert "250 messages: 250 failed again." in result.stderr
    assert [str(n) for n in range(251, 501)] == [line["id"] for line in shop.json("failed", "show", "--max", "999")]


def test_what_takes_long_is_settled_at_once(shop: Shop) -> None:
    """What was handled does not wait for others when its time is over."""
    shop.bury(101, 102)
    shop.write("", "mended")
    shop.append(COUNTING)
    shop.append("from postbus.cli.failed_retry import Retrying; Retrying.SETTLE_AFTER = 0")
    shop.run("failed", "retry", "--all")

    module = sys.modules["shop"]
    assert ([], [1, 1]) == (module.published, [number for number in module.removed if number])


def test_one_that_cannot_be_stored_keeps_no_other_from_it(shop: Shop) -> None:
    """If a batch is refused, each of it is tried by itself; the one that is refused stays as it was."""
    shop.bury(101, 102, 103)
    shop.append("""
        from postbus.errors import TransportError

        failed = app.transport("failed")
        send = failed.send
        def refuse(envelopes):
            if any(envelope.message.order_id == 102 for envelope in envelopes):
                raise TransportError("It is too large.")
            return send(envelopes)
        failed.send = refuse
    """)
    results = shop.json("failed", "retry", "--all")

    assert [("1", "4"), ("2", None), ("3", "5")] == [(line["id"], line["new_id"]) for line in results]
    assert "and then: It is too large." in results[1]["error"]
    assert ["2", "4", "5"] == shop.ids()


def test_what_fails_meanwhile_is_not_retried(shop: Shop) -> None:
    """``--all`` is what had failed when the command began, so it ends though more and more fails."""
    shop.bury(13)
    shop.append("""
        from datetime import UTC, datetime
        from postbus import stamps

        @app.handler
        def bury_another(order: OrderPlaced) -> None:
            error = stamps.ErrorDetails("builtins.ValueError", "no", datetime.now(UTC))
            app.dispatch(order, stamps.TransportNames(["failed"]), stamps.Buried("orders"), error)
    """)
    result = shop.run("failed", "retry", "--all")

    assert ["1"] == [line.split()[0] for line in result.stdout.splitlines()]
    assert ["2", "3"] == shop.ids()


def test_a_clock_that_is_ahead_hides_nothing(shop: Shop) -> None:
    """What failed in the future, on a machine whose clock is wrong, has failed before all the same."""
    module = shop.load()
    error = stamps.ErrorDetails("builtins.ValueError", "no", datetime.now(UTC) + timedelta(hours=1))
    module.app.dispatch(module.OrderPlaced(1), stamps.TransportNames(["failed"]), stamps.Buried("orders"), error)

    assert ["handled"] == [line["result"] for line in shop.json("failed", "retry", "--all")]


def test_sending_back(shop: Shop) -> None:
    """``--send-back`` hands messages to the workers of where they came from, as they were before they failed."""
    shop.append("""
        @app.handler
        def count(order: OrderPlaced) -> None:
            with open("counted", "a") as file:
                file.write("x")
    """)
    shop.bury(13, 101)
    shop.write("", "mended")
    result = shop.run("failed", "retry", "--all", "--send-back")

    assert 0 == result.exit_code
    assert "1 shop.OrderPlaced sent back to 'orders'\n2 shop.OrderPlaced sent back to 'orders'\n" == result.stdout
    assert "2 messages: 2 sent back." in result.stderr
    assert [] == shop.ids()
    assert {"waiting": 2, "delayed": 0} == {
        key: value for key, value in shop.json("stats")["transports"]["orders"].items() if key in ("waiting", "delayed")
    }
    shop.run("consume", "orders", "--limit", "2")
    assert [] == shop.ids()
    assert "xx" == (shop.folder / "counted").read_text()


def test_what_was_sent_back_fails_like_any_other(shop: Shop) -> None:
    """It is retried as often as a new one, then buried again, and knows of all its errors."""
    shop.bury(13)
    assert ["sent back"] == [line["result"] for line in shop.json("failed", "retry", "1", "--send-back")]
    shop.run("consume", "orders", "--limit", "1")

    assert ["order 13 is unlucky"] * 2 == errors_of(shop, "2")
    assert "orders" == shop.json("failed", "show", "2")["transport"]


def test_what_cannot_be_sent_back_is_kept(shop: Shop) -> None:
    """What does not say where it came from, or came from where nothing is any more, or cannot be read, stays."""
    module = shop.load()
    for origin in ([], [stamps.Buried("gone")]):
        module.app.dispatch(module.OrderPlaced(1), stamps.TransportNames(["failed"]), *origin)
    receive_foreign(shop, b"{}", {"type": "gone.Thing"})
    result = shop.run("failed", "retry", "--all", "--send-back", "--format", "json")

    assert 1 == result.exit_code
    assert [
        ("kept", "it does not say where it came from"),
        ("kept", "there is no transport 'gone' any more"),
        ("unreadable", "no message is registered as 'gone.Thing'"),
    ] == [(line["result"], line["error"]) for line in json.loads(result.stdout)]
    assert ["1", "2", "3"] == shop.ids()


def test_where_messages_are_sent_back_to_must_take_them_first(shop: Shop) -> None:
    """If it does not, they are still in the failure transport."""
    shop.bury(13, 101)
    shop.append("""
        from postbus.errors import TransportError

        def refuse(envelopes):
            raise TransportError("The disk is full.")
        app.transport("orders").send = refuse
    """)
    result = shop.run("failed", "retry", "--all", "--send-back")

    assert 1 == result.exit_code
    assert "1 shop.OrderPlaced kept: The disk is full.\n" in result.stdout
    assert ["1", "2"] == shop.ids()


HOLDING = """
    app = Postbus(  # The transports in memory hold all that they have sent.
        transports={name: f"sqlite:///shop.db?queue_name={name}" for name in ("orders", "failed")},
        failure_transport="failed",
    )

    class Held:
        now = most = 0

    @app.message("held")
    @dataclass
    class Holding:
        number: int

        def __post_init__(self) -> None:
            Held.now += 1
            Held.most = max(Held.most, Held.now)

        def __del__(self) -> None:
            Held.now -= 1

    @app.handler
    def fail(message: Holding) -> None:
        if not Path("mended").exists():
            raise ValueError("no")

    def bury(number: int) -> None:
        from postbus import Envelope, stamps
        to_failed = (stamps.TransportNames(["failed"]), stamps.Buried("orders"))
        with app:
            app.dispatch_many(Envelope.wrap(Holding(n), *to_failed) for n in range(number))
"""


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        "show --max 1000",
        "show --max 1000 --format json",
        "show --stats",
        "show --class Missing",
        "retry --all",
        "retry --all --format json",
        "retry --all --send-back",
        "remove --all --force",
    ],
)
def test_no_more_than_a_batch_of_messages_is_held(shop: Shop, command: str, mended: bool) -> None:
    """However many messages there are, only a few of them are held at a time."""
    shop.append(HOLDING)
    shop.load().bury(300)
    if mended:
        shop.write("", "mended")
    shop.run("failed", *command.split())

    most = sys.modules["shop"].Held.most  # type: ignore[attr-defined]
    assert 0 < most <= Retrying.BATCH + 2


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


def test_removing_shows_what_it_removes(shop: Shop) -> None:
    """All about each message, where the question stands; what was removed is on stdout alone."""
    shop.bury(13, 101)
    result = shop.run("failed", "remove", "--all", "--force", "--show-messages", "--format", "json")

    assert {"removed": 2, "not_found": []} == json.loads(result.stdout)
    assert 2 == result.stderr.count("Class:      shop.OrderPlaced")
    assert result.stderr.index("order 13 is unlucky") < result.stderr.index("order 101 is unlucky")


def test_removing_all_of_a_kind(shop: Shop) -> None:
    """Filters choose, over more than a page of messages."""
    shop.bury(*range(200, 200 + PAGE + 5))

    assert {"removed": 0, "not_found": []} == shop.json("failed", "remove", "--class", "MailSent", "--force")
    assert {"removed": PAGE + 5, "not_found": []} == shop.json("failed", "remove", "--all", "--since", "1h", "--force")
    assert [] == shop.ids()


def test_an_interrupted_removal_tells_what_was_done(shop: Shop) -> None:
    """Ctrl+C ends it, and what is gone by then is told."""
    shop.bury(*range(200, 200 + CHUNK + 5))
    shop.append("""
        connection = app.transport("failed").connection
        remove = connection.remove
        def interrupt(ids):
            if "1" not in ids:
                raise KeyboardInterrupt
            return remove(ids)
        connection.remove = interrupt
    """)
    result = shop.run("failed", "remove", "--all", "--force")

    assert 130 == result.exit_code
    assert f"Removed {CHUNK} messages from 'failed'.\n" == result.stdout
    assert 5 == len(shop.ids())


def test_ids_come_back_as_they_were_however_many() -> None:
    """Whatever is in them; of more than a few they are in a file, not in memory."""
    ids = [f'{number}-\n"é\u2028' for number in range(50_000)]
    with Ids(iter(ids)) as kept:
        assert len(ids) == len(kept)
        assert ids == list(kept)
        assert kept._file._rolled


@pytest.mark.parametrize("arguments", [["1"], ["--all"], ["--force"], ["1", "--all", "--force"]])
def test_nothing_is_removed_unasked(shop: Shop, arguments: list[str]) -> None:
    """What is meant must be named, and confirmed or forced."""
    shop.bury(13)

    assert 2 == shop.run("failed", "remove", *arguments).exit_code
    assert ["1"] == shop.ids()
