"""Where a handler failed, as the log of its worker tells."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import pytest

from postbus import Limits, Postbus
from postbus.cli import logs
from postbus.errors import Unrecoverable


@dataclass(frozen=True)
class Order:
    text: str = "no printer"
    is_hopeless: bool = False


class Speechless(Exception):
    """What its own text cannot be had of."""

    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


def print_receipt(order: Order) -> None:
    raise (Unrecoverable if order.is_hopeless else ValueError)(order.text)


def send_receipt(order: Order) -> None:
    print_receipt(order)


@pytest.fixture
def app() -> Postbus:
    """Return an app with a handler that fails, and one retry."""
    app = Postbus(
        transports={"orders": "in-memory://", "failed": "in-memory://"},
        routing={"*": "orders"},
        failure_transport="failed",
        retry={"max_retries": 1, "delay": 0},
    )
    app.handler(send_receipt)
    return app


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [logging.Formatter("%(levelname)s %(message)s").format(record) for record in caplog.records]


def work(app: Postbus, messages: int = 2) -> None:
    app.worker("orders", limits=Limits(messages=messages)).run()


def test_the_first_failure_has_a_traceback_and_the_last_says_where(
    app: Postbus, caplog: pytest.LogCaptureFixture
) -> None:
    """What a handler raises is shown once in full, where its message is retried, and by its lines when it is buried."""
    app.dispatch(Order())
    work(app)

    retrying, burying = lines_of(caplog)
    assert retrying.startswith("WARNING Retrying Order ")
    assert "ValueError: no printer\nTraceback (most recent call last):\n" in retrying
    assert ", in print_receipt\n    raise (" in retrying
    assert retrying.endswith("\nValueError: no printer")
    number = print_receipt.__code__.co_firstlineno
    way = f"test_tracebacks.py:{number + 5} in send_receipt, test_tracebacks.py:{number + 1} in print_receipt"
    assert burying.startswith("ERROR Burying Order ")
    assert burying.endswith(f" in 'failed': ValueError: no printer ({way})")


@pytest.mark.parametrize("failure_transport", ["failed", None])
def test_the_only_failure_has_a_traceback(
    app: Postbus, caplog: pytest.LogCaptureFixture, failure_transport: str | None
) -> None:
    """A message that is buried, or dropped, after its first failure has its traceback there."""
    app = Postbus(
        transports={"orders": "in-memory://", "failed": "in-memory://"},
        routing={"*": "orders"},
        failure_transport=failure_transport,
    )
    app.handler(send_receipt)
    app.dispatch(Order(is_hopeless=True))
    work(app, 1)

    [line] = lines_of(caplog)
    assert line.startswith("ERROR Burying" if failure_transport else "CRITICAL Dropping")
    assert line.endswith("\npostbus.errors.Unrecoverable: no printer")
    assert "test_tracebacks.py:" not in line


def test_several_handlers_that_fail_have_a_traceback_each(app: Postbus, caplog: pytest.LogCaptureFixture) -> None:
    """Where more than one handler of a message fails, what each raised is shown."""

    def fail_too(order: Order) -> None:
        raise KeyError("too")

    app.handler(fail_too)
    app.dispatch(Order())
    work(app, 1)

    [line] = lines_of(caplog)
    assert "2 handlers failed (2 sub-exceptions)" in line
    assert "ValueError: no printer" in line
    assert "KeyError: 'too'" in line


def test_what_postbus_raises_has_none(app: Postbus, caplog: pytest.LogCaptureFixture) -> None:
    """A message that nobody handles says so; the lines of Postbus that found this out tell nobody anything."""
    app.dispatch(Order())
    orders = app.transport("orders")
    other = Postbus(transports={"orders": orders, "failed": "in-memory://"}, routing={}, failure_transport="failed")
    work(other, 1)

    [line] = lines_of(caplog)
    assert "Traceback" not in line


def test_an_error_that_cannot_be_told_is_told_of(app: Postbus, caplog: pytest.LogCaptureFixture) -> None:
    """An error whose own text fails is no reason not to say where it was raised."""

    def fail(order: Order) -> None:
        raise Speechless

    app = Postbus(transports={"orders": "in-memory://"}, routing={"*": "orders"}, retry={"delay": 0})
    app.handler(fail)
    app.dispatch(Order())
    work(app, 1)

    [line] = lines_of(caplog)
    assert "raise Speechless\n" in line


def test_a_traceback_steers_no_terminal(app: Postbus, caplog: pytest.LogCaptureFixture) -> None:
    """What is in the text of an error reaches a log as written out, whoever formats it; and not all of a long one."""
    app.dispatch(Order("\x1b[2Jgone" + "x" * 100_000))
    work(app, 1)

    [line] = lines_of(caplog)
    assert "\x1b" not in line
    assert "Retrying Order" in line
    assert "\\x1b[2Jgone" in line
    assert len(line) < 20_000


def test_a_traceback_in_json(app: Postbus, caplog: pytest.LogCaptureFixture) -> None:
    """In a log of JSON the traceback is the field ``error`` of the same line."""
    app.dispatch(Order())
    work(app, 1)

    [record] = caplog.records
    line = json.loads(logs.JsonFormatter().format(record))
    assert line["message"].endswith("ValueError: no printer")
    assert line["error"].startswith("Traceback (most recent call last):\n")
