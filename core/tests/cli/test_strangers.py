"""What a stranger can write into a queue, and what it comes to on the command line: nothing."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from postbus import Envelope, Postbus, Stamp, stamps
from postbus.cli import failed_output, main
from postbus.cli.failed_messages import FailedMessages, Filter
from postbus.errors import TransportError, describe
from postbus.failures import identifiers, label
from postbus.limits import Limits
from postbus.queue_transport import QueueTransport
from postbus.stamps import HEADER
from postbus.transport import Outgoing

if TYPE_CHECKING:
    from conftest import Shop

EVIL = "\x1b[2J\x9b31m\x07\r\u202eevil\u2028\u2066\nForged: line"
"""It clears the screen, turns it red, rings, and writes from right to left, on a line of its own."""

STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""All of that, but for the end of a line."""

TIMES = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00", "9999-12-31T23:59:59Z"]


def put(shop: Shop, where: str, body: bytes, **headers: str) -> None:
    """Put bytes into a queue of the shop's, as anybody can who may write to it."""
    transport = shop.app.transport(where)
    assert isinstance(transport, QueueTransport)
    transport.connection.publish([Outgoing(body, {"type": "order.placed"} | headers)])


def stamp(**fields: object) -> str:
    return json.dumps([fields])


def put_failed(shop: Shop, number: int, at: str, **more: str) -> None:
    error = stamp(type="builtins.ValueError", message="no", at=at, handler="x")
    headers = {HEADER + "error": error, HEADER + "buried": stamp(transport="orders")} | more
    put(shop, "failed", b'{"order_id": %d}' % number, **headers)


# a message says that it had been buried


@pytest.fixture
def bound(shop: Shop) -> Shop:
    """Return the shop with a handler that is only for another transport, and notes what it gets."""
    shop.append("""
        @app.handler(from_transport="mails")
        def pay_out(order: OrderPlaced) -> None:
            with Path("paid").open("a") as file:
                file.write(f"{order.order_id}\\n")
    """)
    return shop


def test_a_forged_burial_reaches_no_other_handler(bound: Shop) -> None:
    """A message of one transport is handled by the handlers of that one, whatever it says of itself."""
    put(bound, "orders", b'{"order_id": 1}', **{HEADER + "buried": stamp(transport="mails")})
    assert 0 == bound.run("consume", "orders", "--limit", "1").exit_code
    assert not (bound.folder / "paid").exists()


def test_a_forged_burial_is_buried_as_what_it_is(bound: Shop) -> None:
    """When it fails, it goes back to where it came from, not to where it says."""
    put(bound, "orders", b'{"order_id": 13}', **{HEADER + "buried": stamp(transport="mails")})
    bound.run("consume", "orders", "--limit", "1")

    assert ["orders"] == [line["transport"] for line in bound.json("failed", "show")]
    assert "sent back to 'orders'" in bound.run("failed", "retry", "1", "--send-back").stdout
    assert not (bound.folder / "paid").exists()


@pytest.mark.parametrize("transport", ["failed", "elsewhere"])
def test_a_burial_that_cannot_be_is_kept(bound: Shop, transport: str) -> None:
    """What says that it had come from a failure transport, or from nowhere, is not sent there."""
    put(bound, "failed", b'{"order_id": 13}', **{HEADER + "buried": stamp(transport=transport)})
    result = bound.run("failed", "retry", "--all", "--send-back")

    assert 1 == result.exit_code
    assert ["1"] == bound.ids()
    assert repr(transport) in result.stdout


def test_names_of_transports_take_no_memory(bound: Shop) -> None:
    """What is remembered of handlers does not grow by what messages say of themselves."""
    for number in range(50):
        put(bound, "orders", b'{"order_id": 1}', **{HEADER + "buried": stamp(transport=f"t{number}")})
        put(bound, "failed", b'{"order_id": 1}', **{HEADER + "buried": stamp(transport=f"t{number}")})
    assert 0 == bound.run("consume", "orders", "failed", "--limit", "100").exit_code
    app: Any = sys.modules["shop"].app
    assert {"orders", "failed"} == {transport for _, _, transport in app._found}


# a message says how often it was tried, and when


@pytest.mark.parametrize("count", [-(10**9), -1, 10**18, 10**30, 5000])
def test_a_forged_count_costs_no_more_than_a_true_one(shop: Shop, count: int) -> None:
    """It is retried no more often than others, and waits no longer, and what is stored of it can be read."""
    shop.append(f"""
        app = Postbus(
            transports={{"orders": "in-memory://{shop.id}", "failed": "in-memory://{shop.id}-failed"}},
            failure_transport="failed",
            retry={{"max_retries": 2, "delay": 0.001}},
        )
        app.message("order.placed")(OrderPlaced)
        app.handler(send_receipt)
    """)
    put(shop, "orders", b'{"order_id": 13}', **{HEADER + "retried": stamp(count=count, at=TIMES[0], immediate=count)})
    tried = 3 if count < 0 else 1
    shop.run("consume", "orders", "--limit", str(tried))

    assert tried == shop.json("failed", "show", "1")["attempts"]


@pytest.mark.usefixtures("_zone")
def test_a_time_that_cannot_be_hides_nothing(shop: Shop) -> None:
    """One message that failed in the year 1 is listed with the others, filtered, retried and removed."""
    for number, at in enumerate(TIMES):
        put_failed(shop, number, at)
    put_failed(shop, 4, "2026-11-22T08:30:00Z")
    everything = ["1", "2", "3", "4", "5"]

    assert everything == shop.ids()
    assert everything == [line.split()[0] for line in shop.run("failed", "show").stdout.splitlines()[1:]]
    assert ["2", "4", "5"] == [line["id"] for line in shop.json("failed", "show", "--since", "2026-11-22T08:30Z")]
    assert ["1", "3", "5"] == [line["id"] for line in shop.json("failed", "show", "--until", "2026-11-22T08:30Z")]
    assert 5 == shop.json("failed", "show", "--stats")[0]["count"]
    assert 0 == shop.run("failed", "show", "--stats").exit_code
    for id in everything:
        assert shop.json("failed", "show", id)["failed_at"]
        assert "Failed at:" in shop.run("failed", "show", id).stdout
    assert 0 == shop.run("failed", "retry", "--all", "--until", "2026-01-01").exit_code
    assert ["2", "4", "5"] == shop.ids()
    assert 0 == shop.run("failed", "remove", "--since", "2026-01-01", "--force").exit_code
    assert [] == shop.ids()


@pytest.fixture(params=["America/New_York", "Asia/Tokyo"])
def _zone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Be in this time zone; afterwards where the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


# a message says what steers a terminal


def put_evil(shop: Shop) -> None:
    """One that can be read, and one that cannot, with evil in whatever a sender chooses."""
    error = stamp(type=EVIL, message=EVIL, at=TIMES[0], handler=EVIL, traceback=EVIL)
    more = {HEADER + "error": error, HEADER + "id": stamp(id=EVIL), HEADER + "correlation": stamp(id=EVIL)}
    buried = {HEADER + "buried": stamp(transport=EVIL)}
    for where, extra in (("failed", buried), ("orders", {})):
        put(shop, where, b'{"order_id": 13}', **more, **extra)
        put(shop, where, EVIL.encode(), **{"type": EVIL, EVIL: EVIL, **more, **extra})
        put(shop, where, b'{"order_id": 1}', **more, **extra, **{HEADER + "bus": stamp(name=EVIL)})


@pytest.mark.parametrize("format", ["table", "json"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("failed", "show"),
        ("failed", "show", "--stats"),
        ("failed", "show", "1", "-v"),
        ("failed", "show", "2", "-v"),
        ("failed", "show", "3", "-v"),
        ("failed", "retry", "--all"),
        ("failed", "retry", "--all", "--send-back"),
        ("failed", "remove", "--all", "--force"),
        ("stats",),
    ],
    ids=" ".join,
)
def test_nothing_steers_the_terminal(shop: Shop, arguments: tuple[str, ...], format: str) -> None:
    """Whatever a stranger has put into a message, it is written out where it is shown, and forges no line."""
    put_evil(shop)
    result = shop.run(*arguments, "--format", format)

    assert None is STEERING.search(result.stdout + result.stderr)
    assert not [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Forged")]


@pytest.mark.parametrize("format", ["text", "json"])
def test_nothing_steers_who_reads_the_log(shop: Shop, caplog: pytest.LogCaptureFixture, format: str) -> None:
    """Each record is one line, without anything that a terminal obeys; also for handlers that are the user's."""
    put_evil(shop)
    with caplog.at_level(logging.DEBUG):
        result = shop.run("consume", "orders", "--limit", "3", "-vv", "--log-format", format)

    assert "Burying OrderPlaced" in caplog.text
    told = [record for record in caplog.records if record.name == "postbus"]
    shown = [text for record in told for text in (record.getMessage(), *map(str, vars(record).values()))]
    assert [] == [text for text in shown if STEERING.search(text) or "\n" in text]
    assert None is STEERING.search(result.stderr)
    assert not [line for line in result.stderr.splitlines() if line.startswith("Forged")]


def test_what_log_lines_are_made_of() -> None:
    """The label of a message, what identifies it, and what an error says: each is one line, and not for ever."""
    envelope = Envelope.wrap(ValueError(), stamps.MessageId(EVIL * 1000), stamps.Correlation(EVIL * 1000))
    texts = [label(envelope), *identifiers(envelope).values()]
    assert [] == [text for text in texts if not text.isprintable() or len(text) > 250]
    assert describe(ValueError(EVIL)).isprintable()
    assert str(TransportError(EVIL)).isprintable()


# a message, as an object, cannot be shown


class Shy:
    """What neither JSON nor a terminal has a form for."""

    def __repr__(self) -> str:
        raise RuntimeError


def test_one_that_cannot_be_shown_is_shown_as_that() -> None:
    """It is listed, and shown, with what is known of it."""
    failed = {"dsn": "in-memory://?serialize=false", "verify": False}
    app = Postbus(transports={"failed": failed}, failure_transport="failed")
    app.dispatch(Shy(), stamps.TransportNames(["failed"]))
    with patched_module(app):
        result = CliRunner().invoke(main, ["--app", "it:app", "failed", "show", "1"])
    assert 0 == result.exit_code
    assert "Shy, which cannot be shown" in result.stdout


# a message says what it is


def test_classes_that_strangers_invent_are_counted_together(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted of each class does not grow with the names that somebody makes up."""
    monkeypatch.setattr(failed_output, "MOST_CLASSES", 10)
    for number in range(15):
        put(shop, "failed", b"{}", type=f"t{number}")
    lines = {line["class"]: line["count"] for line in shop.json("failed", "show", "--stats")}

    assert 11 == len(lines)
    assert 5 == lines[failed_output.OTHERS]


# a message says anything

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([EVIL, "orders", *TIMES]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
FIELDS: dict[type, st.SearchStrategy[object]] = {
    int: st.integers(-(10**40), 10**40),
    str: st.text() | st.sampled_from([EVIL, "orders", "failed", "default"]),
    datetime: st.sampled_from([*TIMES, "2026-11-22T08:30:00Z"]),
}


KINDS = [kind for kind in stamps.travelling.values() if kind.__module__ == stamps.__name__]


def stamps_of(kind: type[Stamp]) -> st.SearchStrategy[dict[str, str]]:
    """Return headers that hold stamps of a kind, more or less as they should."""
    fields = {name: FIELDS[hint] for name, hint in get_type_hints(kind).items() if hint in FIELDS}
    values = st.lists(st.fixed_dictionaries(fields), max_size=3) | ANYTHING
    return values.map(lambda value: {kind.header or "": json.dumps(value)})


@pytest.mark.slow
@given(st.lists(st.lists(st.sampled_from(KINDS).flatmap(stamps_of), max_size=4), min_size=1, max_size=3))
@settings(max_examples=50)
def test_whatever_stamps_say_every_message_is_shown(messages: list[list[dict[str, str]]]) -> None:
    """Whatever is in the stamps of one, each is handled or buried, listed with the others, retried and removed."""
    app = Postbus(
        transports=dict.fromkeys(("orders", "failed"), "in-memory://"),
        failure_transport="failed",
        retry={"max_retries": 0},
    )
    app.message("refund")(Refund)
    app.handler(fail)
    orders = app.transport("orders")
    assert isinstance(orders, QueueTransport)
    for groups in messages:
        headers = {name: value for group in groups for name, value in group.items()}
        orders.connection.publish([Outgoing(b'{"number": 1}', {"type": "refund", **headers})])
    app.worker("orders", limits=Limits(messages=len(messages))).run()

    shown = FailedMessages(app, "failed")
    assert len(messages) == shown.count() == len(list(shown.matching(Filter())))
    with patched_module(app):
        for arguments in (
            "show",
            "show --stats",
            "show 1 -v",
            "show --since 1h",
            "retry --all",
            "remove --all --force",
        ):
            for format in ("table", "json"):
                result = CliRunner().invoke(main, ["--app", "it:app", "failed", *arguments.split(), "--format", format])
                assert isinstance(result.exception, SystemExit | None)
                assert None is STEERING.search((result.stdout + result.stderr).replace("\t", ""))
    assert 0 == shown.count()


@dataclass(frozen=True)
class Refund:
    number: int


def fail(refund: Refund) -> None:
    raise ValueError(refund)


@contextmanager
def patched_module(app: Postbus) -> Iterator[None]:
    """Let the command line find this app, and not close it after a command."""
    module = ModuleType("it")
    module.__dict__["app"] = app
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "it", module)
        patch.setattr(app, "close", lambda: None)
        yield
